#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace qshard {

/// A regular file opened for reading at any offset, by any number of threads at once. Nothing is
/// mapped: a file that shrinks under us is an error, not a signal.
class InputFile {
  public:
    /// Follows symbolic links: for paths that the user gave. UserError if absent or not a regular
    /// file.
    explicit InputFile(const std::filesystem::path& path);
    /// The file `name` of a model folder, where the name comes from a file of the folder. UserError
    /// unless it is a bare name of [A-Za-z0-9._-]{1,255}. The only symbolic link followed is that
    /// of the Hugging Face cache
    /// (../../blobs/<digest>).
    static InputFile beneath(const std::filesystem::path& folder, std::string_view name);
    /// Takes over a descriptor of a regular file.
    InputFile(int descriptor, std::string name);
    ~InputFile();
    InputFile(InputFile&& other) noexcept;
    InputFile& operator=(InputFile&&) = delete;

    std::uint64_t bytes() const { return bytes_; }
    /// For messages.
    const std::string& name() const { return name_; }
    /// Bytes [offset, offset + bytes). UserError if the file ends before; SystemError if reading
    /// fails.
    void read(std::uint64_t offset, void* out, std::size_t bytes) const;
    /// The whole file. UserError if it is longer than `limit`.
    std::string text(std::size_t limit) const;

  private:
    int descriptor_ = -1;
    std::string name_;
    std::uint64_t bytes_ = 0;
};

}  // namespace qshard
