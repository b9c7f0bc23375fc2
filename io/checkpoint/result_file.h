#pragma once

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "io/checkpoint/atomic_file.h"

/// Where a user pointed a result to: a file, a device, a pipe, a link, or "-" for stdout.
namespace qshard {

/// What an option's help says of such a place.
inline constexpr const char* kOverwriteHelp = "replace the output file if it exists";

/// Refuses now what would fail at the end: SystemError(kCannotCreate) if `target` is a folder, a
/// file that holds something (unless `overwrite`), or lies in a folder that is missing (the message
/// names the first that is) or may not be written to.
void check_result_file(const std::filesystem::path& target, bool overwrite);
/// UserError if `target` is the file that is read, which replacing it would destroy.
void refuse_to_replace(const std::filesystem::path& source, const std::filesystem::path& target);
/// As check_result_file() for a folder to be made: it may exist if it is empty.
void check_result_folder(const std::filesystem::path& folder);

/// A result on its way to where it was pointed. A regular file, new or not, appears whole or not at
/// all, with the rights of the one it replaces; a link stays, and its target is written; a device
/// or a pipe is opened and written to as the pieces come, and so is a descriptor of this process
/// (/dev/stdout, /dev/fd/3).
class ResultFile final : public ByteSink {
  public:
    /// SystemError(kCannotCreate). A named pipe waits for its reader.
    explicit ResultFile(const std::filesystem::path& target);
    ~ResultFile() override;

    /// Appends. SystemError(kIo).
    void write(std::span<const std::byte> bytes) override;
    /// The file is whole: flushed to disk, but not yet in its place. SystemError(kIo).
    void finish();
    /// Where the file is until commit(); nothing for devices and pipes.
    std::optional<std::filesystem::path> path() const;
    /// Puts the finished file in its place.
    void commit();

  private:
    std::filesystem::path target_;          ///< behind all links
    std::unique_ptr<PendingFile> pending_;  ///< of a regular file
    int descriptor_ = -1;                   ///< of anything else
};

/// Where a command that wrote a result to `target` says so: stdout, but stderr if the result itself
/// went to stdout.
std::FILE* summary_stream(const std::filesystem::path& target);

/// A result that is all there.
void write_result(const std::filesystem::path& target, std::string_view text);

}  // namespace qshard
