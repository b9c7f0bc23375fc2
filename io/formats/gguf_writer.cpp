#include "io/formats/gguf_writer.h"

#include "base/error.h"

namespace qshard {
namespace {

// Numbers of value types.
constexpr std::uint32_t kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;
constexpr std::size_t kMaxNameBytes = 63;  // ggml's, without its terminating zero

}  // namespace

template <class T>
void GgufHeader::append(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void GgufHeader::append_text(std::string& to, std::string_view text) {
    append(to, static_cast<std::uint64_t>(text.size()));
    to += text;
}

void GgufHeader::start(std::string_view key, std::uint32_t type) {
    append_text(keys_, key);
    append(keys_, type);
    ++key_count_;
}

void GgufHeader::start_array(std::string_view key, std::uint32_t item, std::size_t count) {
    start(key, kArray);
    append(keys_, item);
    append(keys_, static_cast<std::uint64_t>(count));
}

void GgufHeader::text(std::string_view key, std::string_view value) {
    start(key, kString);
    append_text(keys_, value);
}

void GgufHeader::u32(std::string_view key, std::uint32_t value) {
    start(key, kU32);
    append(keys_, value);
}

void GgufHeader::f32(std::string_view key, float value) {
    start(key, kF32);
    append(keys_, value);
}

void GgufHeader::boolean(std::string_view key, bool value) {
    start(key, kBool);
    append(keys_, static_cast<std::uint8_t>(value));
}

void GgufHeader::texts(std::string_view key, std::span<const std::string> values) {
    start_array(key, kString, values.size());
    for (const std::string& value : values) append_text(keys_, value);
}

void GgufHeader::i32s(std::string_view key, std::span<const std::int32_t> values) {
    start_array(key, kI32, values.size());
    for (std::int32_t value : values) append(keys_, value);
}

void GgufHeader::f32s(std::string_view key, std::span<const float> values) {
    start_array(key, kF32, values.size());
    for (float value : values) append(keys_, value);
}

void GgufHeader::raw(std::string_view key, std::span<const std::byte> value) {
    append_text(keys_, key);
    keys_.append(reinterpret_cast<const char*>(value.data()), value.size());
    ++key_count_;
}

void GgufHeader::tensor(std::string_view name, std::span<const std::int64_t> extents,
                        GgmlType type) {
    const GgmlTraits& traits = traits_of(type);
    check(name.size() <= kMaxNameBytes, "a GGUF tensor's name has at most 63 bytes");
    check(!extents.empty() && extents[0] % traits.block_count == 0,
          "rows of a GGUF tensor are whole blocks");
    append_text(table_, name);
    append(table_, static_cast<std::uint32_t>(extents.size()));
    std::uint64_t count = 1;
    for (std::int64_t extent : extents) {
        append(table_, static_cast<std::uint64_t>(extent));
        count *= static_cast<std::uint64_t>(extent);
    }
    append(table_, static_cast<std::uint32_t>(type));
    append(table_, data_bytes_);
    data_bytes_ += padded(static_cast<std::size_t>(
        count / static_cast<std::uint64_t>(traits.block_count) * traits.block_bytes));
    ++tensor_count_;
}

std::string GgufHeader::bytes() const {
    std::string all = "GGUF";
    append(all, std::uint32_t{3});
    append(all, tensor_count_);
    append(all, key_count_);
    all += keys_;
    all += table_;
    all.resize(padded(all.size()), '\0');
    return all;
}

}  // namespace qshard
