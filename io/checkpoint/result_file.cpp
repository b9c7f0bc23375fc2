#include "io/checkpoint/result_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& target, const std::string& why) {
    throw SystemError(ExitCode::kCannotCreate,
                      fmt::format("cannot write {}: {}", target.string(), why));
}

/// The descriptor of this process that `path` names (/proc/self/fd/N, where /dev/fd and /dev/stdout
/// lead, or "-"); -1 if it is no such name. Opening that name would start a file at its beginning
/// again, and fails for sockets.
int own_descriptor(const fs::path& path) {
    if (path == "-") return STDOUT_FILENO;
    std::error_code error;
    const fs::path folder = fs::canonical(path.parent_path(), error);
    if (error || folder != fmt::format("/proc/{}/fd", ::getpid())) return -1;
    const std::string name = path.filename().string();
    int number = -1;
    const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), number);
    return problem == std::errc() && end == name.data() + name.size() ? number : -1;
}

/// `path` behind its links, as far as they lead; a link of the last name to nothing is followed,
/// too. Stops at a descriptor of this process.
fs::path behind_links(const fs::path& path) {
    constexpr int kMostLinks = 40;
    fs::path at = path;
    for (int i = 0; i < kMostLinks; ++i) {
        if (own_descriptor(at) >= 0) return at;
        std::error_code error;
        if (!fs::is_symlink(fs::symlink_status(at, error))) return at;
        const fs::path to = fs::read_symlink(at, error);
        if (error) refuse(path, fmt::format("reading its link: {}", error.message()));
        at = to.is_absolute() ? to : at.parent_path() / to;
    }
    refuse(path, "its links lead round in a circle");
}

fs::path folder_of(const fs::path& target) {
    const fs::path folder = target.parent_path();
    return folder.empty() ? fs::path(".") : folder;
}

/// A new file needs its folder.
void check_folder_of(const fs::path& named, const fs::path& target) {
    const fs::path folder = folder_of(target);
    fs::path part;
    for (const fs::path& name : folder) {
        part /= name;
        std::error_code error;
        const fs::file_status status = fs::status(part, error);
        if (fs::is_directory(status)) continue;
        if (fs::exists(status)) refuse(named, fmt::format("{} is no folder", part.string()));
        if (status.type() != fs::file_type::not_found)
            refuse(named, fmt::format("looking at {}: {}", part.string(), error.message()));
        refuse(named, fmt::format("there is no folder {}.\nTry: mkdir -p {}", part.string(),
                                  folder.string()));
    }
    if (::access(folder.c_str(), W_OK | X_OK) != 0) {
        refuse(named, fmt::format("no file can be made in folder {}: {}", folder.string(),
                                  std::strerror(errno)));
    }
}

/// What is to be written, and how.
enum class Place { kFile, kStream };

Place place_of(const fs::path& named, const fs::path& target) {
    if (named.empty()) refuse("the result", "the name of the file is empty");
    if (own_descriptor(target) >= 0) return Place::kStream;
    if (target.filename().empty() && !fs::is_directory(target))
        refuse(named, "it names a folder, expected a file");
    std::error_code error;
    switch (fs::status(target, error).type()) {
        case fs::file_type::directory:
            refuse(named, "it is a folder, expected a file: name one in it");
        case fs::file_type::character:
        case fs::file_type::fifo:
            return Place::kStream;
        case fs::file_type::block:
            refuse(named, "it is a disk; results are not written over a disk");
        case fs::file_type::socket:
            refuse(named,
                   "it is a socket, which cannot be opened. Expected a file, a device or a "
                   "pipe");
        default:
            return Place::kFile;
    }
}

}  // namespace

void check_result_file(const fs::path& target, bool overwrite) {
    const fs::path to = behind_links(target);
    if (place_of(target, to) == Place::kStream) {
        const int own = own_descriptor(to);
        const int flags = own >= 0 ? ::fcntl(own, F_GETFL) : 0;
        if (flags < 0 || (own >= 0 && (flags & O_ACCMODE) == O_RDONLY))
            refuse(target, fmt::format("descriptor {} is not open for writing", own));
        if (own < 0 && ::access(to.c_str(), W_OK) != 0) refuse(target, std::strerror(errno));
        return;
    }
    check_folder_of(target, to);
    std::error_code error;
    if (!fs::is_regular_file(fs::status(to, error))) return;
    if (fs::file_size(to, error) > 0 && !overwrite) {
        refuse(target,
               "it exists, and results are not overwritten.\nName another file, or give "
               "--overwrite.");
    }
    if (::access(to.c_str(), W_OK) != 0) refuse(target, std::strerror(errno));
}

void refuse_to_replace(const fs::path& source, const fs::path& target) {
    std::error_code error;
    if (fs::is_regular_file(target, error) && fs::equivalent(source, target, error)) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("{} is what is read; name another file for the result", target.string()));
    }
}

void check_result_folder(const fs::path& folder) {
    std::error_code error;
    const fs::file_status status = fs::status(folder, error);
    if (!fs::exists(status)) return;
    if (!fs::is_directory(status)) refuse(folder, "it is no folder, expected one or a new name");
    if (!fs::is_empty(folder, error) || error) {
        refuse(folder,
               error ? error.message()
                     : "the folder is not empty, and results are not overwritten.\nName a new "
                       "folder, or remove it first.");
    }
}

ResultFile::ResultFile(const fs::path& target) : target_(behind_links(target)) {
    if (place_of(target, target_) == Place::kFile) {
        check_folder_of(target, target_);
        pending_ = std::make_unique<PendingFile>(target_);
        return;
    }
    const int own = own_descriptor(target_);
    if (own == STDOUT_FILENO) std::fflush(stdout);
    descriptor_ = own >= 0 ? ::fcntl(own, F_DUPFD_CLOEXEC, 3)
                           : ::open(target_.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (descriptor_ < 0) refuse(target, std::strerror(errno));
}

ResultFile::~ResultFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

void ResultFile::write(std::span<const std::byte> bytes) {
    if (pending_) {
        pending_->write(bytes);
    } else {
        write_all(descriptor_, bytes, target_);
    }
}

void ResultFile::finish() {
    if (!pending_) {
        if (::close(std::exchange(descriptor_, -1)) != 0)
            throw SystemError(
                fmt::format("closing {}: {}", target_.string(), std::strerror(errno)));
        return;
    }
    pending_->finish();
}

std::optional<fs::path> ResultFile::path() const {
    return pending_ ? std::optional(pending_->path()) : std::nullopt;
}

void ResultFile::commit() {
    if (!pending_) return;
    std::error_code ignored;  // new file: nothing to keep; foreign file: rights are the writer's
    const fs::file_status former = fs::status(target_, ignored);
    if (fs::is_regular_file(former))
        fs::permissions(pending_->path(), former.permissions(), ignored);
    pending_->rename();
    sync_folder(target_.parent_path());
}

std::FILE* summary_stream(const fs::path& target) {
    return own_descriptor(behind_links(target)) == STDOUT_FILENO ? stderr : stdout;
}

void write_result(const fs::path& target, std::string_view text) {
    ResultFile file(target);
    file.write(std::as_bytes(std::span(text.data(), text.size())));
    file.finish();
    file.commit();
}

}  // namespace qshard
