#include "io/formats/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/hash.h"

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

constexpr const char* kSplitCount = "split.count";  // files of the model
constexpr const char* kSplitNumber = "split.no";    // of the file, from 0

/// Null if the key is absent. UserError if its value has another type.
template <class T>
const T* get(const GgufMetadata& metadata, std::string_view key, std::string_view expected,
             const std::string& file) {
    const auto it = metadata.find(key);
    if (it == metadata.end()) return nullptr;
    const T* value = std::get_if<T>(&it->second);
    if (value == nullptr)
        throw UserError(fmt::format("{}: the value of \"{}\" must be {}", file, key, expected));
    return value;
}

std::optional<std::int64_t> integer_in(const GgufMetadata& metadata, std::string_view key,
                                       const std::string& file) {
    const auto* value = get<std::int64_t>(metadata, key, "an integer", file);
    return value == nullptr ? std::nullopt : std::optional(*value);
}

}  // namespace

std::int64_t GgufTensor::count() const {
    std::int64_t product = 1;
    for (std::int64_t extent : extents) product *= extent;
    return product;
}

bool GgufFile::is_gguf(const InputFile& file) {
    std::array<char, 4> magic{};
    if (file.bytes() < magic.size()) return false;
    file.read(0, magic.data(), magic.size());
    return std::string_view(magic.data(), magic.size()) == "GGUF";
}

GgufFile::Header GgufFile::take_header(const InputFile& file) {
    if (file.bytes() < 24) throw UserError(file.name() + ": too short for a GGUF file");
    if (!is_gguf(file)) throw UserError(file.name() + ": not a GGUF file");
    Cursor cursor(file);
    cursor.take<std::uint32_t>();
    const auto version = cursor.take<std::uint32_t>();
    if (version != 2 && version != 3) {
        throw UserError(fmt::format(
            "{}: GGUF version {:#x}; versions 2 and 3 in little-endian order are supported",
            file.name(), version));
    }
    const auto tensor_count = cursor.take<std::uint64_t>();
    const auto key_count = cursor.take<std::uint64_t>();
    if (tensor_count > kMaxTensors) cursor.fail(fmt::format("{} tensors", tensor_count));
    if (key_count > kMaxKeys) cursor.fail(fmt::format("{} keys", key_count));
    Header header;
    for (std::uint64_t i = 0; i < key_count; ++i) {
        std::string key = cursor.take_string(kMaxKeyBytes);
        if (key.empty()) cursor.fail("an empty key");
        const std::uint64_t begin = cursor.position();
        GgufValue value = cursor.take_value();
        header.value_ranges[key] = {begin, cursor.position()};
        if (!header.metadata.emplace(key, std::move(value)).second)
            cursor.fail(fmt::format("the key \"{}\" twice", key));
    }
    for (std::uint64_t i = 0; i < tensor_count; ++i) header.tensors.push_back(take_tensor(cursor));

    const std::int64_t alignment =
        integer_in(header.metadata, "general.alignment", file.name()).value_or(32);
    if (alignment < 1 || static_cast<std::uint64_t>(alignment) > kMaxAlignment ||
        (alignment & (alignment - 1)) != 0) {
        cursor.fail(fmt::format("an alignment of {}", alignment));
    }
    const auto step = static_cast<std::uint64_t>(alignment);
    header.bytes = align_up(cursor.position(), step);
    if (header.bytes > file.bytes() && !header.tensors.empty())
        cursor.fail("it ends before its tensor data");
    std::uint64_t expected = 0;
    for (GgufTensor& tensor : header.tensors) {
        if (tensor.offset != expected) {
            cursor.fail(fmt::format("tensor \"{}\" is at {} of the data, expected {}", tensor.name,
                                    tensor.offset, expected));
        }
        if (expected > file.bytes() - header.bytes ||
            tensor.bytes > file.bytes() - header.bytes - expected) {
            cursor.fail(
                fmt::format("tensor \"{}\" ends after the file: is it truncated?", tensor.name));
        }
        expected += align_up(tensor.bytes, step);
        tensor.offset += header.bytes;
    }
    return header;
}

GgufFile::GgufFile(InputFile file, const OpenPart& open_part) {
    Header header = take_header(file);
    metadata_ = std::move(header.metadata);
    value_ranges_ = std::move(header.value_ranges);
    add_part(std::move(file), std::move(header));
    add_further_parts(open_part);
}

void GgufFile::add_part(InputFile file, Header header) {
    for (GgufTensor& tensor : header.tensors) {
        tensor.part = parts_.size();
        const std::string name = tensor.name;
        if (!tensors_.emplace(name, std::move(tensor)).second) {
            throw UserError(
                fmt::format("{}: broken GGUF file: tensor \"{}\" twice", file.name(), name));
        }
    }
    parts_.push_back({std::move(file), header.bytes});
}

void GgufFile::add_further_parts(const OpenPart& open_part) {
    const std::int64_t count = integer(kSplitCount).value_or(1);
    if (count < 2) return;
    if (count > kMaxParts)
        throw UserError(
            fmt::format("{}: a model in {} files, expected at most {}", name(), count, kMaxParts));
    if (!open_part) throw UserError(fmt::format("{}: one of {} files of a model", name(), count));
    const std::int64_t number = integer(kSplitNumber).value_or(0);
    if (number != 0) {
        throw UserError(fmt::format(
            "{}: file {} of {} of a split model\nGive the first one, whose name ends in "
            "-00001-of-{:05}.gguf; the others are found beside it.",
            name(), number + 1, count, count));
    }
    for (std::int64_t i = 1; i < count; ++i) {
        InputFile file = open_part(i + 1, count);
        Header header = take_header(file);
        const auto said_number = integer_in(header.metadata, kSplitNumber, file.name());
        const auto said_count = integer_in(header.metadata, kSplitCount, file.name());
        if (said_number != i || said_count != count) {
            throw UserError(fmt::format(
                "{}: says that it is file {} of {} of a split model, expected {} of {}: do the "
                "files belong together?",
                file.name(), said_number.value_or(0) + 1, said_count.value_or(1), i + 1, count));
        }
        add_part(std::move(file), std::move(header));
    }
    const std::int64_t tensors = integer("split.tensors.count").value_or(std::ssize(tensors_));
    if (tensors != std::ssize(tensors_)) {
        throw UserError(fmt::format("{}: its {} files have {} tensors, expected {}", name(), count,
                                    tensors_.size(), tensors));
    }
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
    return integer_in(metadata_, key, name());
}

std::optional<double> GgufFile::number(std::string_view key) const {
    const auto it = metadata_.find(key);
    if (it != metadata_.end() && std::holds_alternative<std::int64_t>(it->second)) {
        return static_cast<double>(std::get<std::int64_t>(it->second));
    }
    const double* value = get<double>(metadata_, key, "a number", name());
    if (value == nullptr) return std::nullopt;
    if (!std::isfinite(*value))
        throw UserError(fmt::format("{}: the value of \"{}\" is not finite", name(), key));
    return *value;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
    const bool* value = get<bool>(metadata_, key, "true or false", name());
    return value == nullptr ? std::nullopt : std::optional(*value);
}

const std::string* GgufFile::text(std::string_view key) const {
    return get<std::string>(metadata_, key, "a string", name());
}
const std::vector<std::string>* GgufFile::texts(std::string_view key) const {
    return get<std::vector<std::string>>(metadata_, key, "an array of strings", name());
}
const std::vector<std::int64_t>* GgufFile::integers(std::string_view key) const {
    return get<std::vector<std::int64_t>>(metadata_, key, "an array of integers", name());
}
const std::vector<double>* GgufFile::numbers(std::string_view key) const {
    return get<std::vector<double>>(metadata_, key, "an array of floats", name());
}

std::vector<std::byte> GgufFile::raw_value(std::string_view key) const {
    const auto range = value_ranges_.find(key);
    check(range != value_ranges_.end(), "the key is in the file");
    std::vector<std::byte> bytes(static_cast<std::size_t>(range->second.end - range->second.begin));
    parts_.front().file.read(range->second.begin, bytes.data(), bytes.size());
    return bytes;
}

void GgufFile::read(const GgufTensor& tensor, std::uint64_t first, void* out,
                    std::size_t bytes) const {
    parts_[tensor.part].file.read(tensor.offset + first, out, bytes);
}

std::uint64_t GgufFile::bytes() const {
    std::uint64_t sum = 0;
    for (const Part& part : parts_) sum += part.file.bytes();
    return sum;
}

std::string GgufFile::sha256() const {
    Sha256 digest;
    for (const auto& [file, header_bytes] : parts_) {
        std::string header(static_cast<std::size_t>(std::min(header_bytes, file.bytes())), '\0');
        file.read(0, header.data(), header.size());
        digest.update(fmt::format("gguf {}\n", file.bytes()));
        digest.update(header);
    }
    return digest.hex();
}

const GgufTensor* GgufFile::find(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace qshard
