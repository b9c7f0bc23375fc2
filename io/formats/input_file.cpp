#include "io/formats/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "io/formats/hub_cache.h"
#include "io/formats/placeholder.h"

namespace qshard {
namespace {

// O_NONBLOCK: opening a named pipe must not wait for a writer.
constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

int open_or_fail(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), kFlags);
    if (descriptor < 0)
        throw UserError(fmt::format("cannot open {}: {}", path.string(), std::strerror(errno)));
    return descriptor;
}

bool is_bare_name(std::string_view name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
    };
    return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
           std::all_of(name.begin(), name.end(), allowed);
}

/// UserError for a link of a folder that leads out of it, but to the blobs of its own model in
/// Hugging Face's cache.
void check_link(const std::filesystem::path& folder, const std::filesystem::path& path) {
    std::error_code error;
    const std::filesystem::path target = std::filesystem::canonical(path, error);
    if (error) {
        throw UserError(fmt::format(
            "{} is a link to {}, where no file can be read ({})\nDownload or copy the file again.",
            path.string(), std::filesystem::read_symlink(path, error).string(), error.message()));
    }
    const std::filesystem::path root =
        std::filesystem::canonical(folder.empty() ? "." : folder, error);
    if (!error && is_within(target, root)) return;
    if (!error && is_blob_of_snapshot(target, root)) return;
    throw UserError(fmt::format(
        "{0} is a link that leads out of its folder, to {1}\nOnly links of Hugging Face's cache "
        "are followed out of a folder, so that nothing else is copied into stores and exports. "
        "Put the file itself there (cp --remove-destination {1} {0}), or give the folder that has "
        "the files.",
        path.string(), target.string()));
}

}  // namespace

void ReadLog::open(const std::string& name, const std::filesystem::path& path,
                   std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    files_[name].bytes = bytes;
    paths_[name] = path;
}

void ReadLog::add(const std::string& name, std::uint64_t at, std::uint64_t bytes) {
    if (bytes == 0) return;
    const std::lock_guard lock(mutex_);
    PartialFile& file = files_.at(name);
    FilePiece piece{at, bytes, 0};
    std::vector<FilePiece> pieces;
    for (const FilePiece& other : file.pieces) {
        if (other.at + other.bytes < piece.at || other.at > piece.at + piece.bytes) {
            pieces.push_back(other);
            continue;
        }
        const std::uint64_t end = std::max(piece.at + piece.bytes, other.at + other.bytes);
        piece.at = std::min(piece.at, other.at);
        piece.bytes = end - piece.at;
    }
    pieces.push_back(piece);
    std::sort(pieces.begin(), pieces.end(),
              [](const FilePiece& a, const FilePiece& b) { return a.at < b.at; });
    file.pieces = std::move(pieces);
}

InputFile::InputFile(int descriptor, std::string name)
    : descriptor_(descriptor), name_(std::move(name)) {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(descriptor_);
        throw UserError(fmt::format("{} is not a regular file", name_));
    }
    bytes_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::InputFile(const std::filesystem::path& path)
    : InputFile(open_or_fail(path), path.string()) {
    std::string begin(std::min<std::uint64_t>(bytes_, kPlaceholderBytes), '\0');
    read(0, begin.data(), begin.size());
    refuse_placeholder(begin, name_);
}

InputFile::InputFile(std::shared_ptr<const InputFile> keeper, PartialFile kept, std::string name)
    : name_(std::move(name)),
      bytes_(kept.bytes),
      keeper_(std::move(keeper)),
      pieces_(std::move(kept.pieces)) {}

InputFile InputFile::beneath(const std::filesystem::path& folder, std::string_view name,
                             std::string_view inner) {
    if (!is_bare_name(name)) {
        throw UserError(fmt::format(
            "{}: refused the file name \"{}\"\nExpected a name without folders, made of "
            "letters, digits, '.', '_' and '-'.",
            folder.string(), name.substr(0, 300)));
    }
    return inside(folder, (std::filesystem::path(inner) / name).string());
}

InputFile InputFile::inside(const std::filesystem::path& folder, std::string_view name) {
    const std::filesystem::path path = folder / name;
    std::error_code error;
    const bool deeper = name.find('/') != std::string_view::npos;  // that folder may be a link
    if (deeper || std::filesystem::is_symlink(path, error)) check_link(folder, path);
    return InputFile(path);
}

InputFile::~InputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      name_(std::move(other.name_)),
      bytes_(other.bytes_),
      keeper_(std::move(other.keeper_)),
      pieces_(std::move(other.pieces_)),
      log_(std::move(other.log_)),
      log_key_(std::move(other.log_key_)) {}

void InputFile::record(std::shared_ptr<ReadLog> log, std::string key) {
    log_ = std::move(log);
    log_key_ = std::move(key);
    if (log_) log_->open(log_key_, name_, bytes_);
}

void InputFile::read_kept(std::uint64_t offset, void* out, std::size_t bytes) const {
    for (const FilePiece& piece : pieces_) {
        if (offset < piece.at || offset - piece.at > piece.bytes) continue;
        if (bytes > piece.bytes - (offset - piece.at)) continue;
        return keeper_->read(piece.offset + (offset - piece.at), out, bytes);
    }
    throw UserError(
        fmt::format("{} does not keep bytes {} to {} of {}: it is damaged, or of another "
                    "version of this program",
                    keeper_->name(), offset, offset + bytes, name_));
}

void InputFile::read(std::uint64_t offset, void* out, std::size_t bytes) const {
    if (offset > bytes_ || bytes > bytes_ - offset) {
        throw UserError(fmt::format(
            "{}: the file has {} bytes, but bytes {} to {} are needed: is it truncated?", name_,
            bytes_, offset, offset + bytes));
    }
    if (log_) log_->add(log_key_, offset, bytes);
    peek(offset, out, bytes);
}

void InputFile::peek(std::uint64_t offset, void* out, std::size_t bytes) const {
    if (keeper_) return read_kept(offset, out, bytes);
    auto* next = static_cast<char*>(out);
    while (bytes > 0) {
        const ssize_t got = ::pread(descriptor_, next, bytes, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            throw SystemError(
                fmt::format("reading {} at byte {}: {}", name_, offset, std::strerror(errno)));
        }
        if (got == 0) throw UserError(fmt::format("{} became shorter while it was read", name_));
        next += got;
        offset += static_cast<std::uint64_t>(got);
        bytes -= static_cast<std::size_t>(got);
    }
}

std::string InputFile::text(std::size_t limit) const {
    if (bytes_ > limit) {
        throw UserError(
            fmt::format("{}: {} bytes, more than the {} allowed", name_, bytes_, limit));
    }
    if (keeper_ && bytes_ > keeper_->bytes())
        throw UserError(fmt::format("{} does not keep all of {}", keeper_->name(), name_));
    std::string content(static_cast<std::size_t>(bytes_), '\0');
    read(0, content.data(), content.size());
    return content;
}

}  // namespace qshard
