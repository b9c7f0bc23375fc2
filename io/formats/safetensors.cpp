#include "io/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kMaxHeader = std::uint64_t{32} << 20;
constexpr std::size_t kMaxTensors = 200000;
constexpr std::size_t kMaxDimensions = 8;
constexpr std::size_t kMaxName = 512;

struct TypeRow {
    std::string_view name;
    std::uint64_t bits;
};
// In the order of SafetensorsType.
constexpr std::array<TypeRow, 22> kTypes = {
    {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
     {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
     {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
     {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
     {"I64", 64},        {"U64", 64}}};

/// A whole number below 2^63, whichever of its two integer types the parser chose.
std::uint64_t whole(const json::value& value, const std::string& what) {
    if (!value.is_int64() || value.get_int64() < 0)
        throw UserError(what + ": expected a whole number");
    return static_cast<std::uint64_t>(value.get_int64());
}

SafetensorsType parse_type(const json::value* value, const std::string& what) {
    if (value != nullptr && value->is_string()) {
        const std::string_view name = value->get_string();
        for (std::size_t i = 0; i < kTypes.size(); ++i) {
            if (kTypes[i].name == name) return static_cast<SafetensorsType>(i);
        }
    }
    throw UserError(what + ": unknown dtype");
}

/// `offset` is still that in the data section.
SafetensorsTensor parse_tensor(const json::value& value, const std::string& what) {
    if (!value.is_object()) throw UserError(what + ": expected an object");
    JsonKeys keys(value.get_object(), what);
    SafetensorsTensor tensor;
    tensor.type = parse_type(keys.find("dtype"), what);
    const json::array* shape = keys.array("shape");
    const json::array* range = keys.array("data_offsets");
    keys.refuse_others("the format has dtype, shape and data_offsets only");
    if (shape == nullptr || shape->size() > kMaxDimensions) {
        throw UserError(
            fmt::format("{}: expected a shape of at most {} dimensions", what, kMaxDimensions));
    }
    if (range == nullptr || range->size() != 2)
        throw UserError(what + ": expected two data_offsets");
    std::uint64_t bits = kTypes[static_cast<std::size_t>(tensor.type)].bits;
    for (const json::value& extent : *shape) {
        const std::uint64_t count = whole(extent, what + ": shape");
        if (__builtin_mul_overflow(bits, count, &bits) || bits >> 62 != 0) {
            throw UserError(what + ": the shape is too large");
        }
        tensor.shape.push_back(static_cast<std::int64_t>(count));
    }
    const std::uint64_t begin = whole((*range)[0], what + ": data_offsets");
    const std::uint64_t end = whole((*range)[1], what + ": data_offsets");
    if (end < begin || bits % 8 != 0 || end - begin != bits / 8) {
        throw UserError(
            fmt::format("{}: data_offsets {} to {} do not fit the {} bits of its shape and dtype",
                        what, begin, end, bits));
    }
    tensor.offset = begin;
    tensor.bytes = end - begin;
    return tensor;
}

void check_tiling(const std::map<std::string, SafetensorsTensor, std::less<>>& tensors,
                  std::uint64_t data_bytes, const std::string& name) {
    struct Range {
        std::uint64_t begin, bytes;
        bool operator<(const Range& other) const {
            return begin != other.begin ? begin < other.begin : bytes < other.bytes;
        }
    };
    std::vector<Range> ranges;
    for (const auto& [key, tensor] : tensors) ranges.push_back({tensor.offset, tensor.bytes});
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t end = 0;
    for (const Range& range : ranges) {
        if (range.begin != end) {
            throw UserError(
                fmt::format("{}: tensors leave a hole or overlap at byte {} of the data", name,
                            std::min(end, range.begin)));
        }
        if (range.bytes > data_bytes - end) {
            throw UserError(
                fmt::format("{}: a tensor ends after the file's {} bytes of data: is it truncated?"
                            "\nWas its download finished? Get it again.",
                            name, data_bytes));
        }
        end += range.bytes;
    }
    if (end != data_bytes) {
        throw UserError(
            fmt::format("{}: {} bytes of data, of which tensors use {}", name, data_bytes, end));
    }
}

}  // namespace

std::string_view name_of(SafetensorsType type) {
    return kTypes[static_cast<std::size_t>(type)].name;
}

std::uint64_t bits_of(SafetensorsType type) {
    return kTypes[static_cast<std::size_t>(type)].bits;
}

std::int64_t SafetensorsTensor::count() const {
    std::int64_t product = 1;
    for (std::int64_t extent : shape) product *= extent;
    return product;
}

SafetensorsFile::SafetensorsFile(InputFile file) : file_(std::move(file)) {
    const std::string& name = file_.name();
    if (file_.bytes() < 8) {
        throw UserError(fmt::format(
            "{}: {} bytes are too short for a safetensors file\nWas its download finished? Get it "
            "again.",
            name, file_.bytes()));
    }
    std::array<std::uint8_t, 8> prefix{};
    file_.read(0, prefix.data(), prefix.size());
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) length = length << 8 | prefix[i];
    if (length > kMaxHeader || length > file_.bytes() - 8) {
        throw UserError(fmt::format(
            "{}: a safetensors header of {} bytes; the file has {} and the limit is {}\n{}", name,
            length, file_.bytes(), kMaxHeader,
            length > kMaxHeader ? "It is no safetensors file, or damaged."
                                : "It is truncated: was its download finished? Get it again."));
    }
    header_bytes_ = 8 + length;
    std::string header(static_cast<std::size_t>(length), '\0');
    file_.read(8, header.data(), header.size());
    if (!header.starts_with('{'))
        throw UserError(name + ": not a safetensors file: its header is not a JSON object");
    const json::value document =
        parse_strict_json(header, name, {.bytes = static_cast<std::size_t>(kMaxHeader)});
    if (document.get_object().size() > kMaxTensors + 1) {
        throw UserError(fmt::format("{}: more than {} tensors", name, kMaxTensors));
    }
    for (const auto& [key, value] : document.get_object()) {
        const std::string_view key_text = key;
        if (key_text == "__metadata__") {
            if (value.is_null()) continue;  // none, as for the reference implementation
            if (!value.is_object()) throw UserError(name + ": __metadata__ is not an object");
            for (const auto& [field, text] : value.get_object()) {
                if (!text.is_string())
                    throw UserError(name + ": __metadata__ must hold strings only");
                metadata_.emplace(field, std::string_view(text.get_string()));
            }
            continue;
        }
        if (key_text.size() > kMaxName) {
            throw UserError(
                fmt::format("{}: a tensor's name is longer than {} bytes", name, kMaxName));
        }
        tensors_.emplace(key_text,
                         parse_tensor(value, fmt::format("{}: tensor \"{}\"", name, key_text)));
    }
    check_tiling(tensors_, file_.bytes() - header_bytes_, name);
    for (auto& [key, tensor] : tensors_) tensor.offset += header_bytes_;
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace qshard
