#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace qshard {

/// Bytes [at, at + bytes) of a file; `offset` says where another file keeps them.
struct FilePiece {
    std::uint64_t at = 0, bytes = 0, offset = 0;
};

/// A file of which only some pieces are known: ascending, apart from each other.
struct PartialFile {
    std::uint64_t bytes = 0;  ///< of the whole file
    std::vector<FilePiece> pieces;
};

/// Notes what is read of files, so that it can be kept. Thread-safe.
class ReadLog {
  public:
    /// A file of `bytes` at `path`, noted under `name`.
    void open(const std::string& name, const std::filesystem::path& path, std::uint64_t bytes);
    /// Bytes [at, at + bytes) of it were read.
    void add(const std::string& name, std::uint64_t at, std::uint64_t bytes);
    const std::map<std::string, PartialFile>& files() const { return files_; }
    const std::filesystem::path& path(const std::string& name) const { return paths_.at(name); }

  private:
    std::mutex mutex_;
    std::map<std::string, PartialFile> files_;
    std::map<std::string, std::filesystem::path> paths_;
};

/// A regular file opened for reading at any offset, by any number of threads at once. Nothing is
/// mapped: a file that shrinks under us is an error, not a signal.
class InputFile {
  public:
    /// A path that the user gave: symbolic links are followed. UserError if absent, not a regular
    /// file, or only what stands for one (placeholder.h).
    explicit InputFile(const std::filesystem::path& path);
    /// The file `name` of a folder that the user gave. A link is followed to files of the same
    /// folder and, in a snapshot of the Hugging Face cache, to that model's blobs; UserError for
    /// one that leads elsewhere, so that nothing from outside is read and copied on.
    static InputFile inside(const std::filesystem::path& folder, std::string_view name);
    /// The same where the name comes from a file of the folder, or from a folder `inner` of it.
    /// UserError unless it is a bare name of [A-Za-z0-9._-]{1,255}.
    static InputFile beneath(const std::filesystem::path& folder, std::string_view name,
                             std::string_view inner = "");
    /// Takes over a descriptor of a regular file.
    InputFile(int descriptor, std::string name);
    /// A file of which `keeper` has pieces. UserError when other bytes are read.
    InputFile(std::shared_ptr<const InputFile> keeper, PartialFile kept, std::string name);
    ~InputFile();
    InputFile(InputFile&& other) noexcept;
    InputFile& operator=(InputFile&&) = delete;

    std::uint64_t bytes() const { return bytes_; }
    /// For messages.
    const std::string& name() const { return name_; }
    /// Every read from now on is noted in `log`, under `key`. Only of a file opened by its path.
    void record(std::shared_ptr<ReadLog> log, std::string key);
    /// Bytes [offset, offset + bytes). UserError if the file ends before; SystemError if reading
    /// fails.
    void read(std::uint64_t offset, void* out, std::size_t bytes) const;
    /// The same, but not noted: for what is looked at once and whose result is kept.
    void peek(std::uint64_t offset, void* out, std::size_t bytes) const;
    /// The whole file. UserError if it is longer than `limit`.
    std::string text(std::size_t limit) const;

  private:
    void read_kept(std::uint64_t offset, void* out, std::size_t bytes) const;

    int descriptor_ = -1;
    std::string name_;
    std::uint64_t bytes_ = 0;
    std::shared_ptr<const InputFile> keeper_;  ///< null: the descriptor's file
    std::vector<FilePiece> pieces_;
    std::shared_ptr<ReadLog> log_;
    std::string log_key_;
};

}  // namespace qshard
