#include "io/checkpoint/store.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <tuple>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/image.h"
#include "io/checkpoint/manifest.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 20;
constexpr std::uint64_t kSpareBytes = std::uint64_t{1} << 20;
constexpr int kMinKeep = 3;

std::string file_name(std::int64_t step, int revision) {
    return revision == 0 ? fmt::format("step-{:08}.h5", step)
                         : fmt::format("step-{:08}.{}.h5", step, revision);
}

/// The generation a name denotes, if file_name() writes exactly that name.
std::optional<Generation> parse_name(const std::string& name) {
    constexpr std::size_t kPrefix = 5;  // "step-"
    if (!name.starts_with("step-") || !name.ends_with(".h5")) return {};
    Generation found;
    const char* end = name.data() + name.size() - 3;
    std::from_chars_result read = std::from_chars(name.data() + kPrefix, end, found.step);
    if (read.ec != std::errc{}) return {};
    if (read.ptr != end && *read.ptr == '.')
        read = std::from_chars(read.ptr + 1, end, found.revision);
    if (read.ec != std::errc{} || name != file_name(found.step, found.revision)) return {};
    return found;
}

void check_space(const fs::path& folder, std::uint64_t needed_bytes) {
    struct statvfs info {};
    if (::statvfs(folder.c_str(), &info) != 0) return;  // unknown: the write will tell
    const std::uint64_t free_bytes = std::uint64_t{info.f_bavail} * info.f_frsize;
    if (free_bytes < needed_bytes + kSpareBytes) {
        throw SystemError(
            fmt::format("saving a checkpoint in {}: needs {} bytes, {} are free.\n"
                        "Free space there, lower checkpoint.keep, or choose another output folder.",
                        folder.string(), needed_bytes + kSpareBytes, free_bytes));
    }
}

void remove_file(const fs::path& path) {
    std::error_code error;
    fs::remove(path, error);
    if (error) throw SystemError(fmt::format("removing {}: {}", path.string(), error.message()));
}

fs::path abandoned(const fs::path& folder, int number) {
    return folder / fmt::format("abandoned-{}", number);
}

/// The number of the last such folder; 0 if there is none.
int last_abandoned(const fs::path& folder) {
    int number = 0;
    while (fs::exists(abandoned(folder, number + 1))) ++number;
    return number;
}

/// The file under the same name in `folder`, as a link where the file system has them. None if
/// there is no such file.
void copy_into(const fs::path& folder, const fs::path& file) {
    const fs::path target = folder / file.filename();
    std::error_code error;
    if (!fs::exists(file, error)) return;
    fs::create_hard_link(file, target, error);
    if (error) write_file_atomic(target, read_file(file, std::size_t{1} << 42));
}

void expect_same(const fs::path& written, std::span<const std::byte> image) {
    if (!file_holds(written, image)) {
        throw SystemError(fmt::format(
            "saving {}: what was read back differs from what was written; the disk or memory of "
            "this node is faulty. The older checkpoints are untouched.",
            written.string()));
    }
}

bool same_but_for_time(const CheckpointState& state, const fs::path& file) {
    try {
        VectorDigests digests;
        CheckpointFacts facts = decode_facts(CheckpointStore::read_verified(file), digests);
        facts.created = state.created;
        return facts == state && digests == digests_of(state);
    } catch (const Error&) {
        return false;
    }
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path folder) : folder_(std::move(folder)) {}

fs::path CheckpointStore::save(CheckpointState state, int keep, std::int64_t best_step) {
    make_folder(folder_);
    remove_temporaries(folder_);  // of killed saves: there is one writer
    // A name with a manifest may be the last durable state, so it is never written over.
    int revision = 0;
    fs::path file;
    for (;; ++revision) {
        file = folder_ / file_name(state.step, revision);
        if (!fs::exists(Generation{state.step, revision, file, true}.manifest())) break;
        if (same_but_for_time(state, file)) return file;
    }
    publish(std::move(state), file);
    verified_.insert(file);
    prune(std::max(keep, kMinKeep), best_step);
    return file;
}

void CheckpointStore::publish(CheckpointState state, const fs::path& file) const {
    Manifest manifest;
    manifest.file = file.filename().string();
    manifest.step = state.step;
    manifest.created = state.created;
    manifest.engine_version = QSHARD_VERSION;
    const VectorDigests digests = digests_of(state);
    manifest.adapter_sha256 = digests.adapter;
    const FileImage image = encode_checkpoint(std::move(state));
    manifest.bytes = image.size();
    manifest.sha256 = sha256_hex(image);
    check_space(folder_, image.size());
    VectorDigests decoded;
    const bool same = decode_facts(image, decoded).step == manifest.step && decoded == digests;
    check(same, "a checkpoint decodes to what was saved");
    PendingFile data(file, image);
    expect_same(data.path(), image);
    const std::string text = manifest_text(manifest);
    const Generation generation{manifest.step, 0, file, true};
    PendingFile note(generation.manifest(), std::as_bytes(std::span(text.data(), text.size())));
    data.rename();
    note.rename();
    sync_folder(folder_);
}

std::optional<fs::path> CheckpointStore::go_back_to(const CheckpointState& chosen,
                                                    const fs::path& file, const fs::path& log) {
    std::error_code error;
    fs::path mine = folder_ / file.filename();
    if (!fs::equivalent(mine, file, error)) {
        make_folder(folder_);
        mine = save(chosen, std::numeric_limits<int>::max());
    }
    if (newer_than(mine).empty()) return {};
    const fs::path aside = abandoned(folder_, last_abandoned(folder_) + 1);
    make_folder(aside);
    if (fs::exists(log))  // no link: it is written on
        write_file_atomic(aside / log.filename(), read_file(log, std::size_t{1} << 40));
    write_file_atomic(intent(), std::string_view(mine.filename().string()));
    return finish_going_back();
}

std::optional<fs::path> CheckpointStore::finish_going_back() {
    if (!fs::exists(intent())) return {};
    const std::vector<std::byte> text = read_file(intent(), kMaxManifestBytes);
    const std::string name(reinterpret_cast<const char*>(text.data()), text.size());
    const int last = last_abandoned(folder_);
    if (last == 0 || !parse_name(name)) return {};
    const fs::path aside = abandoned(folder_, last);
    for (const Generation& generation : newer_than(folder_ / name)) {
        // In both folders before it leaves this one; without its manifest it counts for nothing.
        copy_into(aside, generation.file);
        copy_into(aside, generation.manifest());
        sync_folder(aside);
        remove_file(generation.manifest());
        remove_file(generation.file);
        verified_.erase(generation.file);
    }
    remove_file(intent());
    sync_folder(folder_);
    return aside;
}

std::vector<Generation> CheckpointStore::newer_than(const fs::path& file) const {
    std::vector<Generation> found = list();
    const std::int64_t step = parse_name(file.filename().string())->step;
    std::erase_if(found, [&](const Generation& g) { return g.step < step || g.file == file; });
    return found;
}

std::optional<LoadedCheckpoint> CheckpointStore::load_step(std::int64_t step) const {
    for (const Generation& generation : list()) {
        if (generation.step != step) continue;
        try {
            return LoadedCheckpoint{load(generation.file), generation.file};
        } catch (const UserError&) {
            continue;
        }
    }
    return {};
}

void CheckpointStore::prune(int keep, std::int64_t best_step) {
    int kept = 0;
    bool removed = false;
    for (const Generation& generation : list()) {
        if (!generation.has_manifest) continue;  // not provably ours
        if (best_step > 0 && generation.step == best_step) continue;
        if (kept == keep) {
            // The manifest goes first: a file without one is never loaded.
            remove_file(generation.manifest());
            remove_file(generation.file);
            verified_.erase(generation.file);
            removed = true;
            continue;
        }
        if (!verified_.contains(generation.file)) {
            try {
                read_verified(generation.file);
                verified_.insert(generation.file);
            } catch (const Error&) {
                continue;  // damaged: does not count as kept
            }
        }
        ++kept;
    }
    if (removed) sync_folder(folder_);
}

std::vector<Generation> CheckpointStore::list() const {
    std::vector<Generation> found;
    std::error_code error;
    for (fs::directory_iterator at(folder_, error), end; !error && at != end; at.increment(error)) {
        const fs::path& path = at->path();
        const bool is_manifest = path.extension() == ".json";
        auto generation = parse_name(is_manifest ? path.stem().string() : path.filename().string());
        if (!generation) continue;
        generation->file = is_manifest ? folder_ / path.stem() : path;
        generation->has_manifest = is_manifest;
        found.push_back(*generation);
    }
    if (error && error != std::errc::no_such_file_or_directory) {
        throw SystemError(fmt::format("listing {}: {}", folder_.string(), error.message()));
    }
    const auto order = [](const Generation& g) {
        return std::tuple(-g.step, -g.revision, !g.has_manifest);
    };
    std::ranges::sort(found, {}, order);
    const auto same_file = [](const Generation& a, const Generation& b) {
        return a.file == b.file;
    };
    found.erase(std::unique(found.begin(), found.end(), same_file), found.end());
    return found;
}

std::optional<LoadedCheckpoint> CheckpointStore::load_newest(const OnRejected& on_rejected) const {
    const std::vector<Generation> generations = list();
    for (const Generation& generation : generations) {
        try {
            return LoadedCheckpoint{load(generation.file), generation.file};
        } catch (const Error& error) {
            on_rejected(generation.file, error.what());
        }
    }
    // One file without a manifest is what a kill during the very first save leaves: nothing was
    // durable yet.
    const bool nothing_durable =
        generations.empty() || (generations.size() == 1 && !generations[0].has_manifest);
    if (nothing_durable) return {};
    throw UserError(fmt::format(
        "{} holds {} checkpoints and none can be used, so training does not start over them.\n"
        "Restore one of them, or choose another output folder.",
        folder_.string(), generations.size()));
}

CheckpointState CheckpointStore::load(const fs::path& file) {
    CheckpointState state = decode_checkpoint(read_verified(file));
    const auto name = parse_name(file.filename().string());
    if (name && name->step != state.step) {
        throw UserError(fmt::format("{}: holds step {}", file.string(), state.step));
    }
    return state;
}

std::vector<std::byte> CheckpointStore::read_verified(const fs::path& file) {
    const fs::path manifest_path = file.string() + ".json";
    std::error_code error;
    if (!fs::exists(manifest_path, error)) {
        throw UserError(
            fmt::format("{}: there is no manifest {} beside it, so it cannot be verified (save "
                        "interrupted, or a "
                        "file of another origin)",
                        file.string(), manifest_path.filename().string()));
    }
    const std::vector<std::byte> text = read_file(manifest_path, kMaxManifestBytes);
    const Manifest manifest =
        parse_manifest({reinterpret_cast<const char*>(text.data()), text.size()});
    std::vector<std::byte> image = read_file(file, std::size_t{1} << 42);
    if (image.size() != manifest.bytes) {
        throw UserError(fmt::format("{}: has {} bytes, its manifest says {}", file.string(),
                                    image.size(), manifest.bytes));
    }
    if (sha256_hex(image) != manifest.sha256) {
        throw UserError(
            fmt::format("{}: damaged, its SHA-256 is not that of its manifest", file.string()));
    }
    return image;
}

}  // namespace qshard
