#include "io/checkpoint/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

class Fd {
  public:
    explicit Fd(int fd) : fd_(fd) {}
    ~Fd() {
        if (fd_ >= 0) ::close(fd_);
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    int get() const { return fd_; }

  private:
    int fd_;
};

[[noreturn]] void fail(ExitCode code, const char* doing, const fs::path& path) {
    const int error = errno;
    const char* hint = error == ENOSPC || error == EDQUOT || error == EFBIG
                           ? "\nFree space there, or choose another output folder."
                           : "";
    throw SystemError(code,
                      fmt::format("{} {}: {}{}", doing, path.string(), std::strerror(error), hint));
}

std::string temporary_name(const fs::path& target) {
    static std::atomic<int> counter{0};
    return fmt::format(".{}.tmp-{}-{}", target.filename().string(), ::getpid(), counter++);
}

}  // namespace

void write_all(int fd, std::span<const std::byte> bytes, const fs::path& path) {
    constexpr std::size_t kBlockBytes = std::size_t{8} << 20;
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd, bytes.data(), std::min(bytes.size(), kBlockBytes));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) fail(ExitCode::kIo, "writing", path);
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
}

PendingFile::PendingFile(const fs::path& target) : target_(target) {
    for (int attempt = 0; descriptor_ < 0 && attempt < 100; ++attempt) {
        temporary_ = target.parent_path() / temporary_name(target);
        descriptor_ =
            ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (descriptor_ < 0 && errno != EEXIST)
            break;  // EEXIST: left by a killed process of our id
    }
    if (descriptor_ < 0) {
        const fs::path failed = std::exchange(temporary_, {});
        fail(ExitCode::kCannotCreate, "creating", failed);
    }
}

PendingFile::PendingFile(const fs::path& target, std::span<const std::byte> bytes)
    : PendingFile(target) {
    write(bytes);
    finish();
}

PendingFile::~PendingFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void PendingFile::write(std::span<const std::byte> bytes) {
    write_all(descriptor_, bytes, temporary_);
}

void PendingFile::finish() {
    if (::fsync(descriptor_) != 0) fail(ExitCode::kIo, "flushing to disk", temporary_);
    // close() can report a late write error (NFS, quota).
    if (::close(std::exchange(descriptor_, -1)) != 0) fail(ExitCode::kIo, "closing", temporary_);
}

void PendingFile::rename() {
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
        fail(ExitCode::kCannotCreate, "renaming to", target_);
    }
    temporary_.clear();
}

void write_file_atomic(const fs::path& target, std::span<const std::byte> bytes) {
    PendingFile file(target, bytes);
    file.rename();
    sync_folder(target.parent_path());
}

void write_file_atomic(const fs::path& target, std::string_view text) {
    write_file_atomic(target, std::as_bytes(std::span(text.data(), text.size())));
}

void remove_temporaries(const fs::path& folder) {
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
        const std::string name = at->path().filename().string();
        const std::size_t mark = name.find(".tmp-");
        if (!name.starts_with('.') || mark == std::string::npos) continue;
        if (name.find_first_not_of("0123456789-", mark + 5) != std::string::npos) continue;
        if (::unlink(at->path().c_str()) != 0) fail(ExitCode::kIo, "removing", at->path());
    }
    if (error && error != std::errc::no_such_file_or_directory) {
        throw SystemError(fmt::format("listing {}: {}", folder.string(), error.message()));
    }
}

void sync_folder(const fs::path& folder) {
    const fs::path name = folder.empty() ? fs::path(".") : folder;
    Fd fd(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd.get() < 0) fail(ExitCode::kIo, "opening folder", name);
    // Some network file systems cannot fsync a folder and say EINVAL; their renames are
    // synchronous.
    if (::fsync(fd.get()) != 0 && errno != EINVAL) {
        fail(ExitCode::kIo, "flushing to disk folder", name);
    }
}

void make_folder(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) {
        throw SystemError(ExitCode::kCannotCreate,
                          fmt::format("creating folder {}: {}", folder.string(), error.message()));
    }
}

std::vector<std::byte> read_file(const fs::path& path, std::size_t limit_bytes) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
    if (fd.get() < 0) {
        const std::string reason =
            errno == ELOOP ? "is a symbolic link, expected a regular file" : std::strerror(errno);
        throw UserError(fmt::format("reading {}: {}", path.string(), reason));
    }
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) fail(ExitCode::kIo, "reading", path);
    if (!S_ISREG(info.st_mode)) {
        throw UserError(fmt::format("reading {}: not a regular file", path.string()));
    }
    const auto file_bytes = static_cast<std::size_t>(info.st_size);
    if (file_bytes > limit_bytes) {
        throw UserError(fmt::format("reading {}: {} bytes, expected at most {}", path.string(),
                                    file_bytes, limit_bytes));
    }
    std::vector<std::byte> bytes(file_bytes);
    std::size_t done = 0;
    while (done < file_bytes) {
        const ssize_t count = ::read(fd.get(), bytes.data() + done, file_bytes - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail(ExitCode::kIo, "reading", path);
        if (count == 0) break;
        done += static_cast<std::size_t>(count);
    }
    if (done != file_bytes) {
        throw UserError(fmt::format("reading {}: it shrank while being read", path.string()));
    }
    return bytes;
}

bool file_holds(const fs::path& path, std::span<const std::byte> bytes) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (fd.get() < 0) fail(ExitCode::kIo, "reading back", path);
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
    std::vector<std::byte> block(std::size_t{1} << 20);
    for (;;) {
        const ssize_t count = ::read(fd.get(), block.data(), block.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail(ExitCode::kIo, "reading back", path);
        if (count == 0) return bytes.empty();
        const auto read = static_cast<std::size_t>(count);
        if (read > bytes.size() || std::memcmp(block.data(), bytes.data(), read) != 0) return false;
        bytes = bytes.subspan(read);
    }
}

}  // namespace qshard
