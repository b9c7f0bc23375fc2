#include "io/inspect/subject.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <fstream>
#include <optional>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/foreign.h"
#include "io/checkpoint/image.h"
#include "io/checkpoint/store.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/tensor_names.h"

namespace qshard::inspect {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kWeightsName = "adapter_model.safetensors";

Subject load_file(const fs::path& path) {
    Subject subject;
    subject.path = path;
    if (fs::exists(path.string() + ".json")) {
        const std::vector<std::byte> image = CheckpointStore::read_verified(path);
        subject.bytes = image.size();
        subject.sha256 = sha256_hex(image);
        subject.state = CheckpointStore::load(path);
    } else {
        subject.kind = Kind::kForeignCheckpoint;
        const std::vector<std::byte> image = read_file(path, std::size_t{1} << 36);
        subject.bytes = image.size();
        subject.sha256 = sha256_hex(image);
        subject.state = load_foreign_checkpoint(path);
    }
    return subject;
}

Subject load_peft(const fs::path& folder) {
    PeftAdapter adapter = read_peft_adapter(folder);
    Subject subject;
    subject.kind = Kind::kPeftFolder;
    subject.path = folder;
    subject.bytes = fs::file_size(folder / kWeightsName);
    subject.sha256 = adapter.sha256;
    subject.state.tensors = std::move(adapter.tensors);
    subject.state.adapter = std::move(adapter.values);
    subject.state.adapter_config_json = std::move(adapter.config_json);
    return subject;
}

/// Of a file that is none of ours, what it is instead; people try models and run files, too.
void refuse_other_files(const fs::path& path) {
    constexpr std::string_view kHdf5 = "\x89HDF\r\n\x1a\n";
    std::array<char, kHdf5.size()> begin{};
    std::ifstream(path, std::ios::binary).read(begin.data(), begin.size());
    const std::string_view magic(begin.data(), begin.size());
    if (magic == kHdf5 || fs::exists(path.string() + ".json")) return;
    const char* what = magic.starts_with("GGUF")            ? "a GGUF file"
                       : path.extension() == ".safetensors" ? "a safetensors file"
                       : magic == "version "                ? "a Git LFS pointer"
                                                            : "no HDF5 file";
    throw UserError(
        fmt::format("{} is {}.\nExpected a checkpoint (step-*.h5), a PEFT adapter's folder, an "
                    "output folder or "
                    "a weight store.",
                    path.string(), what));
}

/// The newest usable checkpoint of a folder; why newer ones are not goes to `rejected`.
std::optional<Subject> load_newest(const fs::path& path, std::vector<std::string>& rejected) {
    const auto folder = checkpoints_folder(path);
    if (!folder) return {};
    for (const Generation& generation : CheckpointStore(*folder).list()) {
        try {
            CheckpointStore::read_verified(generation.file);
            Subject subject = load_file(generation.file);
            subject.rejected = rejected;
            return subject;
        } catch (const Error& error) {
            rejected.push_back(naming(generation.file, error.what()));
        }
    }
    return {};
}

Subject load(const fs::path& path) {
    if (!fs::exists(path)) throw UserError(path.string() + ": no such file or folder");
    const fs::path folder = adapter_folder_of(path);
    if (!fs::is_directory(folder)) {
        refuse_other_files(path);
        return load_file(path);
    }
    std::vector<std::string> rejected;
    if (auto newest = load_newest(path, rejected)) return std::move(*newest);
    if (fs::exists(folder / kConfigName)) {
        Subject subject = load_peft(folder);
        subject.rejected = std::move(rejected);
        return subject;
    }
    if (!rejected.empty()) {
        throw UserError(fmt::format("{}: none of its checkpoints can be used:\n{}", path.string(),
                                    fmt::join(rejected, "\n")));
    }
    throw UserError(fmt::format(
        "{}: holds neither checkpoints (step-*.h5) nor a PEFT adapter (adapter_config.json)",
        path.string()));
}

}  // namespace

std::string Subject::kind_text() const {
    switch (kind) {
        case Kind::kCheckpoint:
            return "checkpoint, verified";
        case Kind::kForeignCheckpoint:
            return "checkpoint without a manifest, NOT verified";
        case Kind::kPeftFolder:
            return "PEFT adapter";
    }
    return "";
}

std::optional<fs::path> checkpoints_folder(const fs::path& path) {
    for (const fs::path& folder : {path / "checkpoints", path}) {
        if (fs::is_directory(folder) && !CheckpointStore(folder).list().empty()) return folder;
    }
    return {};
}

std::string naming(const fs::path& path, const std::string& message) {
    const bool named = message.find(path.string()) != std::string::npos;
    return named ? message : fmt::format("{}: {}", path.string(), message);
}

fs::path adapter_folder_of(const fs::path& path) {
    const std::string name = path.filename().string();
    if (name == kWeightsName || name == kConfigName) return fs::absolute(path).parent_path();
    if (!fs::exists(path / kConfigName) && fs::exists(path / "adapter" / kConfigName))
        return path / "adapter";
    return path;
}

Subject load_subject(const fs::path& path) {
    try {
        return load(path);
    } catch (const Error& error) {
        throw Error(error.code(), naming(path, error.what()));
    }
}

TensorPlace place_of(const std::string& key) {
    TensorPlace place;
    std::string rest = key;
    for (const std::string_view list : {".layers.", ".h."}) {  // as GPT-2 has it
        const std::size_t at = rest.find(list);
        if (at == std::string::npos) continue;
        const char* begin = rest.data() + at + list.size();
        const auto [end, error] = std::from_chars(begin, rest.data() + rest.size(), place.layer);
        if (error == std::errc{} && *end == '.') rest = rest.substr(end + 1 - rest.data());
        break;
    }
    if (rest.starts_with(kPeftPrefix)) rest = rest.substr(kPeftPrefix.size());
    const std::size_t lora = rest.find(".lora_");
    place.target = rest.substr(0, lora == std::string::npos ? rest.rfind('.') : lora);
    constexpr std::string_view kBase = ".base_layer";  // of a bias beside LoRA
    if (place.target.ends_with(kBase)) place.target.resize(place.target.size() - kBase.size());
    return place;
}

}  // namespace qshard::inspect
