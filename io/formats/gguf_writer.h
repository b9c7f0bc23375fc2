#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/formats/gguf_dequant.h"

namespace qshard {

/// The header of a GGUF file (version 3, little-endian): metadata, then the table of tensors. Their
/// data follow it in the same order, each piece filled up to a multiple of kAlignment.
class GgufHeader {
  public:
    static constexpr std::size_t kAlignment = 32;
    static constexpr std::size_t padded(std::size_t bytes) {
        return (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }

    // Metadata in the order of the calls; a key is given once.
    void text(std::string_view key, std::string_view value);
    void u32(std::string_view key, std::uint32_t value);
    void f32(std::string_view key, float value);
    void boolean(std::string_view key, bool value);
    void texts(std::string_view key, std::span<const std::string> values);
    void i32s(std::string_view key, std::span<const std::int32_t> values);
    void f32s(std::string_view key, std::span<const float> values);
    /// `value` as another file has it: type number, then content.
    void raw(std::string_view key, std::span<const std::byte> value);

    /// The next tensor; `extents` fastest first. BugError for a name above 63 bytes or a row that
    /// is no whole blocks.
    void tensor(std::string_view name, std::span<const std::int64_t> extents, GgmlType type);

    /// Everything before the data, filled up.
    std::string bytes() const;

  private:
    void start(std::string_view key, std::uint32_t type);
    void start_array(std::string_view key, std::uint32_t item, std::size_t count);
    template <class T>
    static void append(std::string& to, T value);
    static void append_text(std::string& to, std::string_view text);

    std::string keys_, table_;
    std::uint64_t key_count_ = 0, tensor_count_ = 0, data_bytes_ = 0;
};

}  // namespace qshard
