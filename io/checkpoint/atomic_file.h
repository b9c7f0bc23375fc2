#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

/// Durable files: either the old content or the whole new content, also after SIGKILL or a power
/// cut.
namespace qshard {

/// Takes bytes in order.
class ByteSink {
  public:
    ByteSink() = default;
    virtual ~ByteSink() = default;
    ByteSink(const ByteSink&) = delete;
    ByteSink& operator=(const ByteSink&) = delete;
    /// Appends. SystemError kIo.
    virtual void write(std::span<const std::byte> bytes) = 0;
};

/// A file being written under a temporary name beside `target`, in as many pieces as there are;
/// removed unless renamed. Temporary names are ".NAME.tmp-PID-K". An error of write or fsync is
/// final: the file is removed, never retried.
class PendingFile final : public ByteSink {
  public:
    /// SystemError kCannotCreate if it cannot be opened.
    explicit PendingFile(const std::filesystem::path& target);
    /// Writes `bytes` and finishes.
    PendingFile(const std::filesystem::path& target, std::span<const std::byte> bytes);
    ~PendingFile() override;

    void write(std::span<const std::byte> bytes) override;
    /// The file is whole: flushes it to disk and closes it. SystemError kIo.
    void finish();
    const std::filesystem::path& path() const { return temporary_; }
    /// Renames the finished file over `target`. Durable only after sync_folder().
    void rename();

  private:
    std::filesystem::path target_, temporary_;
    int descriptor_ = -1;
};

/// Writes all of `bytes` to an open descriptor; `path` is for the message. SystemError kIo.
void write_all(int descriptor, std::span<const std::byte> bytes, const std::filesystem::path& path);

/// Replaces `target` by `bytes`: temporary file, fsync, rename, fsync of the folder.
void write_file_atomic(const std::filesystem::path& target, std::span<const std::byte> bytes);
void write_file_atomic(const std::filesystem::path& target, std::string_view text);

/// Removes the temporary files that killed writers left in `folder`, which nobody else may be
/// writing into. None if there is no such folder.
void remove_temporaries(const std::filesystem::path& folder);

/// Makes renames and removals inside `folder` durable.
void sync_folder(const std::filesystem::path& folder);

/// Creates `folder` and its parents; SystemError kCannotCreate.
void make_folder(const std::filesystem::path& folder);

/// Reads a regular file whole. UserError if it is missing, a symbolic link, no regular file, or
/// larger than `limit_bytes`; SystemError if reading fails.
std::vector<std::byte> read_file(const std::filesystem::path& path, std::size_t limit_bytes);

/// Whether the file holds exactly these bytes; read from the device, not from its cache, where the
/// system allows it.
bool file_holds(const std::filesystem::path& path, std::span<const std::byte> bytes);

}  // namespace qshard
