#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace qshard {

/// metrics.jsonl: one JSON object a line. A checkpoint records its length and digest; a resumed run
/// truncates it to that. Lines reach the system at once and the disk at sync(), which belongs
/// before every checkpoint.
class MetricsLog {
  public:
    /// Keeps the first `bytes` bytes, whose SHA-256 is `sha256`, and drops the rest (steps after
    /// the checkpoint). If the file does not hold them, it is moved to NAME.damaged (unless it is
    /// empty), a new one begins, and warning() says so: a lost curve does not stop a run.
    /// SystemError if the file cannot be opened or changed.
    explicit MetricsLog(std::filesystem::path path, std::int64_t bytes = 0,
                        const std::string& sha256 = "");
    ~MetricsLog();
    MetricsLog(const MetricsLog&) = delete;
    MetricsLog& operator=(const MetricsLog&) = delete;

    /// Adds one JSON object, without its line end. SystemError kIo.
    void append(std::string_view json_object);
    void sync();

    std::int64_t bytes() const { return bytes_; }
    /// Of everything so far, read back from the file: what a checkpoint records.
    std::string sha256() const;
    const std::string& warning() const { return warning_; }

  private:
    std::filesystem::path path_;
    int fd_ = -1;
    std::int64_t bytes_ = 0;
    std::string warning_;
};

}  // namespace qshard
