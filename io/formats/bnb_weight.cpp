#include "io/formats/bnb_weight.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "spec/json.h"
#include "spec/json_keys.h"
#include "spec/layout.h"
#include "tensor/nf4.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxState = std::size_t{1} << 16;  ///< bytes of a quant_state's JSON

struct FourBitType {
    std::string_view name;
    Storage storage;
};
constexpr FourBitType kTypes[] = {{"nf4", Storage::kNf4}, {"fp4", Storage::kFp4}};

std::size_t to_size(std::int64_t count) {
    return static_cast<std::size_t>(count);
}

}  // namespace

/// Looks up the parts of one weight and checks what they are.
class BnbWeight::Finder {
  public:
    Finder(const WeightSpec& weight, const std::string& name, const Find& find,
           const std::string& origin)
        : weight_(weight), name_(name), find_(find), origin_(origin) {}

    std::optional<BnbWeight> run() {
        const TensorInFile data = find_(name_);
        if (data.tensor == nullptr) return std::nullopt;
        result_.data_ = data;
        const FourBitType* type = nullptr;
        TensorInFile state;
        for (const FourBitType& candidate : kTypes) {
            const TensorInFile found =
                find_(fmt::format("{}.quant_state.bitsandbytes__{}", name_, candidate.name));
            if (found.tensor == nullptr) continue;
            if (type != nullptr) fail("has two quant_states, of nf4 and of fp4");
            type = &candidate;
            state = found;
        }
        if (type != nullptr) {
            four_bit(*type, state);
            return std::move(result_);
        }
        if (data.tensor->type != SafetensorsType::kI8) return std::nullopt;
        int8();
        return std::move(result_);
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw UserError(fmt::format("{}: the quantized tensor \"{}\" {}", origin_, name_, what));
    }

    /// A part: exactly `count` items of a type.
    TensorInFile part(const std::string& name, SafetensorsType type, std::int64_t count) const {
        const TensorInFile found = find_(name);
        if (found.tensor == nullptr) fail(fmt::format("lacks its \"{}\"", name));
        if (found.tensor->type != type || found.tensor->count() != count) {
            fail(fmt::format("has a \"{}\" of {} {} values, expected {} of {}", name,
                             found.tensor->count(), name_of(found.tensor->type), count,
                             name_of(type)));
        }
        return found;
    }

    std::vector<float> floats(const TensorInFile& from) const {
        std::vector<float> values(to_size(from.tensor->count()));
        from.read(0, std::as_writable_bytes(std::span(values)));
        return values;
    }

    void four_bit(const FourBitType& type, const TensorInFile& state) {
        const std::int64_t count = weight_.count();
        const std::int64_t blocks = (count + kFourBitBlock - 1) / kFourBitBlock;
        const bool nested = read_state(type, state);
        // Any dtype: bnb_4bit_quant_storage views the same bytes.
        if (result_.data_.tensor->bytes != to_size((count + 1) / 2)) {
            fail(fmt::format("has {} bytes of codes, expected {}", result_.data_.tensor->bytes,
                             (count + 1) / 2));
        }
        result_.form_ = {type.storage, nested};
        part(name_ + ".quant_map", SafetensorsType::kF32, 16);
        result_.absmax_ =
            part(name_ + ".absmax", nested ? SafetensorsType::kU8 : SafetensorsType::kF32, blocks);
        if (!nested) return;
        result_.absmax2_ = part(name_ + ".nested_absmax", SafetensorsType::kF32,
                                (blocks + kNestedBlock - 1) / kNestedBlock);
        std::vector<float> map =
            floats(part(name_ + ".nested_quant_map", SafetensorsType::kF32, 256));
        if (std::memcmp(map.data(), kDynamicMap.data(), sizeof kDynamicMap) == 0) return;
        result_.own_map_ = std::move(map);
        result_.form_.double_quant = false;
    }

    /// Whether the absmax values are double-quantized.
    bool read_state(const FourBitType& type, const TensorInFile& state) {
        const std::string origin = fmt::format("{}: quant_state of \"{}\"", origin_, name_);
        if (state.tensor->type != SafetensorsType::kU8 || state.tensor->bytes > kMaxState)
            fail("has a quant_state that is no JSON text in U8");
        std::string text(state.tensor->bytes, '\0');
        state.read(0, std::as_writable_bytes(std::span(text)));
        const boost::json::value document = parse_strict_json(text, origin, {.bytes = kMaxState});
        if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
        JsonKeys keys(document.get_object(), origin);
        if (keys.text("quant_type") != type.name) keys.fail("quant_type", std::string(type.name));
        require(keys, "blocksize", kFourBitBlock);
        result_.source_dtype_ = parse_dtype(keys);
        const boost::json::array* shape = keys.array("shape");
        const std::int64_t expected[] = {weight_.rows, weight_.cols};
        const bool fits =
            shape != nullptr &&
            std::equal(shape->begin(), shape->end(), std::begin(expected), std::end(expected),
                       [](const boost::json::value& extent, std::int64_t want) {
                           return extent.is_int64() && extent.get_int64() == want;
                       });
        if (!fits) keys.fail("shape", fmt::format("[{}, {}]", weight_.rows, weight_.cols));
        const std::optional<double> offset = keys.number("nested_offset");
        if (offset) {
            require(keys, "nested_blocksize", kNestedBlock);
            if (keys.text("nested_dtype") != "float32") keys.fail("nested_dtype", "\"float32\"");
            result_.offset_ = static_cast<float>(*offset);
        }
        keys.refuse_others("bitsandbytes refuses them too");
        return offset.has_value();
    }

    void require(JsonKeys& keys, std::string_view key, std::int64_t expected) const {
        const auto value = keys.integer(key, 1, std::numeric_limits<std::int32_t>::max());
        if (value == expected) return;
        keys.fail(key, fmt::format("{} (no other is supported)", expected));
    }

    DType parse_dtype(JsonKeys& keys) const {
        const std::string name = keys.text("dtype").value_or("");
        for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
            if (name == name_of(dtype)) return dtype;
        }
        keys.fail("dtype", "bfloat16, float16 or float32");
    }

    void int8() {
        const std::vector<std::int64_t> expected = {weight_.rows, weight_.cols};
        if (result_.data_.tensor->shape != expected) {
            fail(fmt::format("has shape [{}], expected [{}]",
                             fmt::join(result_.data_.tensor->shape, ", "),
                             fmt::join(expected, ", ")));
        }
        const std::string module = name_.substr(0, name_.rfind('.'));
        result_.form_ = {Storage::kInt8, false};
        result_.absmax_ = part(module + ".SCB", SafetensorsType::kF32, weight_.rows);
        if (find_(module + ".weight_format").tensor == nullptr) return;
        const TensorInFile format = part(module + ".weight_format", SafetensorsType::kU8, 1);
        std::byte value{};
        format.read(0, {&value, 1});
        if (value != std::byte{0})
            fail("is in one of bitsandbytes' tiled int8 layouts; save it again with a recent one");
    }

    const WeightSpec& weight_;
    const std::string& name_;
    const Find& find_;
    const std::string& origin_;
    BnbWeight result_;
};

std::optional<BnbWeight> BnbWeight::find(const WeightSpec& weight, const std::string& name,
                                         const Find& find, const std::string& origin) {
    return Finder(weight, name, find, origin).run();
}

void BnbWeight::read(StoredPart part, std::size_t first, std::span<std::byte> out) const {
    switch (part) {
        case StoredPart::kData:
            return data_.read(first, out);
        case StoredPart::kAbsmax:
            return own_map_.empty() ? absmax_.read(first, out) : rebuild_absmax(first, out);
        case StoredPart::kAbsmax2:
            return absmax2_.read(first, out);
        case StoredPart::kOffset:
            check(first + out.size() <= sizeof offset_, "a read lies inside the part");
            std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&offset_) + first,
                        out.size());
    }
}

/// map[code] * absmax2 + offset, two roundings, as the kernels do with the canonical map.
void BnbWeight::rebuild_absmax(std::size_t first, std::span<std::byte> out) const {
    check(first % sizeof(float) == 0 && out.size() % sizeof(float) == 0,
          "whole absmax values are read");
    const std::size_t block = first / sizeof(float), count = out.size() / sizeof(float);
    if (count == 0) return;
    constexpr std::size_t kNested = kNestedBlock;
    const std::size_t block2 = block / kNested;
    std::vector<std::uint8_t> codes(count);
    std::vector<float> absmax2((block + count - 1) / kNested + 1 - block2), values(count);
    absmax_.read(block, std::as_writable_bytes(std::span(codes)));
    absmax2_.read(block2 * sizeof(float), std::as_writable_bytes(std::span(absmax2)));
    for (std::size_t i = 0; i < count; ++i)
        values[i] = own_map_[codes[i]] * absmax2[(block + i) / kNested - block2] + offset_;
    std::memcpy(out.data(), values.data(), out.size());
}

}  // namespace qshard
