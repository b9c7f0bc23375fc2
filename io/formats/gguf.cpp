#include "io/formats/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace qshard {
namespace {

constexpr std::uint64_t kMaxString = std::uint64_t{16} << 20;
constexpr std::uint64_t kMaxArray = std::uint64_t{16} << 20;
constexpr std::uint64_t kMaxKeys = 65536;
constexpr std::uint64_t kMaxTensors = 1000000;
constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kMaxNameBytes = 63;  // ggml's, without its terminating zero
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;

enum class ValueType : std::uint32_t {
    kU8,
    kI8,
    kU16,
    kI16,
    kU32,
    kI32,
    kF32,
    kBool,
    kString,
    kArray,
    kU64,
    kI64,
    kF64
};

/// Bytes of a value in the file; of a string, the least.
std::uint64_t bytes_of(ValueType type) {
    switch (type) {
        case ValueType::kU8:
        case ValueType::kI8:
        case ValueType::kBool:
            return 1;
        case ValueType::kU16:
        case ValueType::kI16:
            return 2;
        case ValueType::kU32:
        case ValueType::kI32:
        case ValueType::kF32:
            return 4;
        case ValueType::kString:
        case ValueType::kU64:
        case ValueType::kI64:
        case ValueType::kF64:
            return 8;
        case ValueType::kArray:
            break;
    }
    return 12;
}

/// Reads the header front to back, through a window of the file.
class Cursor {
  public:
    explicit Cursor(const InputFile& file) : file_(file) {}

    std::uint64_t position() const { return position_; }
    std::uint64_t left() const { return file_.bytes() - position_; }
    [[noreturn]] void fail(const std::string& what) const {
        throw UserError(
            fmt::format("{}: broken GGUF file: {} (near byte {})", file_.name(), what, position_));
    }

    void take(void* out, std::uint64_t bytes) {
        if (bytes > left()) fail("it ends inside its header");
        if (position_ < window_begin_ || position_ + bytes > window_begin_ + window_.size()) {
            window_begin_ = position_;
            window_.resize(static_cast<std::size_t>(std::min(left(), std::max(bytes, kWindow))));
            file_.read(position_, window_.data(), window_.size());
        }
        std::memcpy(out, window_.data() + (position_ - window_begin_),
                    static_cast<std::size_t>(bytes));
        position_ += bytes;
    }
    template <class T>
    T take() {
        T value;
        take(&value, sizeof(T));
        return value;
    }
    std::string take_string(std::uint64_t limit = kMaxString) {
        const auto length = take<std::uint64_t>();
        if (length > limit || length > left()) fail(fmt::format("a string of {} bytes", length));
        std::string text(static_cast<std::size_t>(length), '\0');
        take(text.data(), length);
        return text;
    }
    ValueType take_type() {
        const auto type = take<std::uint32_t>();
        if (type > static_cast<std::uint32_t>(ValueType::kF64))
            fail(fmt::format("unknown value type {}", type));
        return static_cast<ValueType>(type);
    }
    std::int64_t take_integer(ValueType type) {
        switch (type) {
            case ValueType::kU8:
                return take<std::uint8_t>();
            case ValueType::kI8:
                return take<std::int8_t>();
            case ValueType::kU16:
                return take<std::uint16_t>();
            case ValueType::kI16:
                return take<std::int16_t>();
            case ValueType::kU32:
                return take<std::uint32_t>();
            case ValueType::kI32:
                return take<std::int32_t>();
            case ValueType::kI64:
                return take<std::int64_t>();
            case ValueType::kU64: {
                const auto value = take<std::uint64_t>();
                if (value > static_cast<std::uint64_t>(INT64_MAX)) fail("an integer above 2^63");
                return static_cast<std::int64_t>(value);
            }
            default:
                break;
        }
        return take_bool() ? 1 : 0;
    }
    bool take_bool() {
        const auto value = take<std::uint8_t>();
        if (value > 1) fail("a truth value that is neither 0 nor 1");
        return value == 1;
    }
    double take_float(ValueType type) {
        return type == ValueType::kF32 ? static_cast<double>(take<float>()) : take<double>();
    }

    GgufValue take_array() {
        const ValueType type = take_type();
        const auto count = take<std::uint64_t>();
        if (type == ValueType::kArray) fail("an array of arrays");
        if (count > kMaxArray || count * bytes_of(type) > left())
            fail(fmt::format("an array of {} items", count));
        const auto n = static_cast<std::size_t>(count);
        if (type == ValueType::kString) {
            std::vector<std::string> items(n);
            for (std::string& item : items) item = take_string();
            return items;
        }
        if (type == ValueType::kF32 || type == ValueType::kF64) {
            std::vector<double> items(n);
            for (double& item : items) item = take_float(type);
            return items;
        }
        std::vector<std::int64_t> items(n);
        for (std::int64_t& item : items) item = take_integer(type);
        return items;
    }
    GgufValue take_value() {
        const ValueType type = take_type();
        if (type == ValueType::kString) return take_string();
        if (type == ValueType::kArray) return take_array();
        if (type == ValueType::kBool) return take_bool();
        if (type == ValueType::kF32 || type == ValueType::kF64) return take_float(type);
        return take_integer(type);
    }

  private:
    static constexpr std::uint64_t kWindow = 1 << 18;

    const InputFile& file_;
    std::uint64_t position_ = 0, window_begin_ = 0;
    std::vector<char> window_;
};

/// `offset` is still that in the data section.
GgufTensor take_tensor(Cursor& cursor) {
    GgufTensor tensor;
    tensor.name = cursor.take_string(kMaxNameBytes);
    const auto dimensions = cursor.take<std::uint32_t>();
    if (dimensions > kMaxDimensions)
        cursor.fail(fmt::format("a tensor of {} dimensions", dimensions));
    std::int64_t count = 1;
    for (std::uint32_t d = 0; d < dimensions; ++d) {
        const auto extent = cursor.take<std::int64_t>();
        if (extent <= 0 || __builtin_mul_overflow(count, extent, &count)) {
            cursor.fail(fmt::format("tensor \"{}\" has an impossible shape", tensor.name));
        }
        tensor.extents.push_back(extent);
    }
    if (dimensions == 0) tensor.extents.push_back(1);
    const auto id = cursor.take<std::uint32_t>();
    const std::optional<GgmlType> type = ggml_type(id);
    if (!type) cursor.fail(fmt::format("tensor \"{}\" has the unknown type {}", tensor.name, id));
    tensor.type = *type;
    const GgmlTraits& traits = traits_of(tensor.type);
    if (tensor.extents[0] % traits.block_count != 0) {
        cursor.fail(fmt::format("rows of tensor \"{}\" are no whole blocks of {} elements",
                                tensor.name, traits.block_count));
    }
    if (__builtin_mul_overflow(static_cast<std::uint64_t>(count / traits.block_count),
                               traits.block_bytes, &tensor.bytes) ||
        tensor.bytes >> 62 != 0) {
        cursor.fail(fmt::format("tensor \"{}\" has an impossible shape", tensor.name));
    }
    tensor.offset = cursor.take<std::uint64_t>();
    return tensor;
}

std::uint64_t align_up(std::uint64_t bytes, std::uint64_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

std::int64_t GgufTensor::count() const {
    std::int64_t product = 1;
    for (std::int64_t extent : extents) product *= extent;
    return product;
}

GgufFile::GgufFile(InputFile file) : file_(std::move(file)) {
    Cursor cursor(file_);
    if (file_.bytes() < 24) throw UserError(file_.name() + ": too short for a GGUF file");
    std::array<char, 4> magic{};
    cursor.take(magic.data(), magic.size());
    if (std::string_view(magic.data(), magic.size()) != "GGUF")
        throw UserError(file_.name() + ": not a GGUF file");
    const auto version = cursor.take<std::uint32_t>();
    if (version != 2 && version != 3) {
        throw UserError(fmt::format(
            "{}: GGUF version {:#x}; versions 2 and 3 in little-endian order are supported",
            file_.name(), version));
    }
    const auto tensor_count = cursor.take<std::uint64_t>();
    const auto key_count = cursor.take<std::uint64_t>();
    if (tensor_count > kMaxTensors) cursor.fail(fmt::format("{} tensors", tensor_count));
    if (key_count > kMaxKeys) cursor.fail(fmt::format("{} keys", key_count));
    for (std::uint64_t i = 0; i < key_count; ++i) {
        std::string key = cursor.take_string(kMaxKeyBytes);
        if (key.empty()) cursor.fail("an empty key");
        const std::uint64_t begin = cursor.position();
        GgufValue value = cursor.take_value();
        value_ranges_[key] = {begin, cursor.position()};
        if (!metadata_.emplace(key, std::move(value)).second)
            cursor.fail(fmt::format("the key \"{}\" twice", key));
    }
    std::vector<GgufTensor> listed;
    for (std::uint64_t i = 0; i < tensor_count; ++i) listed.push_back(take_tensor(cursor));

    const std::int64_t alignment = integer("general.alignment").value_or(32);
    if (alignment < 1 || static_cast<std::uint64_t>(alignment) > kMaxAlignment ||
        (alignment & (alignment - 1)) != 0) {
        cursor.fail(fmt::format("an alignment of {}", alignment));
    }
    const auto step = static_cast<std::uint64_t>(alignment);
    header_bytes_ = align_up(cursor.position(), step);
    if (header_bytes_ > file_.bytes() && !listed.empty())
        cursor.fail("it ends before its tensor data");
    std::uint64_t expected = 0;
    for (GgufTensor& tensor : listed) {
        if (tensor.offset != expected) {
            cursor.fail(fmt::format("tensor \"{}\" is at {} of the data, expected {}", tensor.name,
                                    tensor.offset, expected));
        }
        if (expected > file_.bytes() - header_bytes_ ||
            tensor.bytes > file_.bytes() - header_bytes_ - expected) {
            cursor.fail(
                fmt::format("tensor \"{}\" ends after the file: is it truncated?", tensor.name));
        }
        expected += align_up(tensor.bytes, step);
        tensor.offset += header_bytes_;
        const std::string name = tensor.name;
        if (!tensors_.emplace(name, std::move(tensor)).second)
            cursor.fail(fmt::format("tensor \"{}\" twice", name));
    }
}

template <class T>
const T* GgufFile::get(std::string_view key, std::string_view expected) const {
    const auto it = metadata_.find(key);
    if (it == metadata_.end()) return nullptr;
    const T* value = std::get_if<T>(&it->second);
    if (value == nullptr)
        throw UserError(
            fmt::format("{}: the value of \"{}\" must be {}", file_.name(), key, expected));
    return value;
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
    const std::int64_t* value = get<std::int64_t>(key, "an integer");
    return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<double> GgufFile::number(std::string_view key) const {
    const auto it = metadata_.find(key);
    if (it != metadata_.end() && std::holds_alternative<std::int64_t>(it->second)) {
        return static_cast<double>(std::get<std::int64_t>(it->second));
    }
    const double* value = get<double>(key, "a number");
    if (value == nullptr) return std::nullopt;
    if (!std::isfinite(*value))
        throw UserError(fmt::format("{}: the value of \"{}\" is not finite", file_.name(), key));
    return *value;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
    const bool* value = get<bool>(key, "true or false");
    return value == nullptr ? std::nullopt : std::optional(*value);
}

const std::string* GgufFile::text(std::string_view key) const {
    return get<std::string>(key, "a string");
}
const std::vector<std::string>* GgufFile::texts(std::string_view key) const {
    return get<std::vector<std::string>>(key, "an array of strings");
}
const std::vector<std::int64_t>* GgufFile::integers(std::string_view key) const {
    return get<std::vector<std::int64_t>>(key, "an array of integers");
}
const std::vector<double>* GgufFile::numbers(std::string_view key) const {
    return get<std::vector<double>>(key, "an array of floats");
}

std::vector<std::byte> GgufFile::raw_value(std::string_view key) const {
    const auto range = value_ranges_.find(key);
    check(range != value_ranges_.end(), "the key is in the file");
    std::vector<std::byte> bytes(static_cast<std::size_t>(range->second.end - range->second.begin));
    file_.read(range->second.begin, bytes.data(), bytes.size());
    return bytes;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace qshard
