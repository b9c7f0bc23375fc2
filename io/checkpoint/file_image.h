#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

namespace qshard {

/// The bytes of a file in memory that malloc() gave.
class FileImage {
  public:
    FileImage(void* memory, std::size_t bytes)
        : memory_(static_cast<std::byte*>(memory)), bytes_(bytes) {}

    std::span<const std::byte> bytes() const { return {memory_.get(), bytes_}; }
    std::size_t size() const { return bytes_; }
    operator std::span<const std::byte>() const { return bytes(); }
    bool operator==(const FileImage& other) const {
        return bytes_ == other.bytes_ &&
               std::memcmp(memory_.get(), other.memory_.get(), bytes_) == 0;
    }

  private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::size_t bytes_;
};

}  // namespace qshard
