#include "io/report/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/hash.h"

namespace qshard {
namespace {

[[noreturn]] void fail(const char* doing, const std::filesystem::path& path) {
    throw SystemError(fmt::format("{} {}: {}", doing, path.string(), std::strerror(errno)));
}

int open_log(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) {
        throw SystemError(ExitCode::kCannotCreate,
                          fmt::format("opening {}: {}", path.string(), std::strerror(errno)));
    }
    return fd;
}

/// Digest of the first `bytes` bytes; "" if there are fewer.
std::string digest_of(int fd, std::int64_t bytes, const std::filesystem::path& path) {
    Sha256 digest;
    std::vector<std::byte> block(std::size_t{1} << 16);
    for (std::int64_t at = 0; at < bytes;) {
        const auto wanted =
            std::min<std::size_t>(block.size(), static_cast<std::size_t>(bytes - at));
        const ssize_t count = ::pread(fd, block.data(), wanted, at);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail("reading", path);
        if (count == 0) return "";
        digest.update(std::span(block).first(static_cast<std::size_t>(count)));
        at += count;
    }
    return digest.hex();
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path path, std::int64_t bytes, const std::string& sha256)
    : path_(std::move(path)), fd_(open_log(path_)), bytes_(bytes) {
    if (bytes > 0 && ::lseek(fd_, 0, SEEK_END) == 0) {
        warning_ = fmt::format("{} has no lines of the steps before the checkpoint; it begins here",
                               path_.string());
        bytes_ = 0;
    } else if (bytes > 0 && digest_of(fd_, bytes, path_) != sha256) {
        const std::filesystem::path aside = path_.string() + ".damaged";
        warning_ = fmt::format(
            "{} does not begin with the {} bytes that the checkpoint recorded; moved to {}",
            path_.string(), bytes, aside.filename().string());
        if (::rename(path_.c_str(), aside.c_str()) != 0) fail("renaming", path_);
        ::close(fd_);
        fd_ = open_log(path_);
        bytes_ = 0;
    }
    if (::ftruncate(fd_, bytes_) != 0) fail("truncating", path_);
}

MetricsLog::~MetricsLog() {
    ::close(fd_);
}

void MetricsLog::append(std::string_view json_object) {
    check(json_object.find('\n') == std::string_view::npos, "a metrics object is one line");
    const std::string line = std::string(json_object) + "\n";
    for (std::size_t done = 0; done < line.size();) {
        const ssize_t count = ::write(fd_, line.data() + done, line.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail("writing", path_);
        done += static_cast<std::size_t>(count);
    }
    bytes_ += std::ssize(line);
}

void MetricsLog::sync() {
    if (::fsync(fd_) != 0) fail("flushing to disk", path_);
}

std::string MetricsLog::sha256() const {
    std::string digest = digest_of(fd_, bytes_, path_);
    if (digest.empty()) {
        throw SystemError(fmt::format("{} is shorter than what was written", path_.string()));
    }
    return digest;
}

}  // namespace qshard
