#include "io/formats/dequantized.h"

#include <algorithm>
#include <vector>

#include "spec/layout.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"

namespace qshard {
namespace {

constexpr std::int64_t kChunk = 1 << 16;  ///< weights at a time; whole 4-bit blocks

template <class T>
std::vector<T> read_items(const WeightReader& reader, const WeightSpec& weight, StoredPart part,
                          std::int64_t first, std::int64_t count) {
    std::vector<T> items(static_cast<std::size_t>(count));
    reader.read_part(weight, part, static_cast<std::size_t>(first) * sizeof(T),
                     std::as_writable_bytes(std::span(items)));
    return items;
}

std::vector<float> read_absmax(const WeightReader& reader, const WeightSpec& weight,
                               bool double_quant, std::int64_t first, std::int64_t count) {
    if (!double_quant) return read_items<float>(reader, weight, StoredPart::kAbsmax, first, count);
    const auto codes = read_items<std::uint8_t>(reader, weight, StoredPart::kAbsmax, first, count);
    const std::int64_t first2 = first / kNestedBlock;
    const auto absmax2 =
        read_items<float>(reader, weight, StoredPart::kAbsmax2, first2,
                          (first + count + kNestedBlock - 1) / kNestedBlock - first2);
    const float offset = read_items<float>(reader, weight, StoredPart::kOffset, 0, 1)[0];
    std::vector<float> absmax;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto block = static_cast<std::size_t>((first + i) / kNestedBlock - first2);
        absmax.push_back(kDynamicMap[codes[static_cast<std::size_t>(i)]] * absmax2[block] + offset);
    }
    return absmax;
}

void read_four_bit(const WeightReader& reader, const WeightSpec& weight, const WeightForm& form,
                   std::int64_t first, std::span<float> out) {
    const auto end = first + static_cast<std::int64_t>(out.size());
    const std::int64_t block = first / kFourBitBlock,
                       block_end = (end + kFourBitBlock - 1) / kFourBitBlock;
    const std::int64_t begin_byte = block * kFourBitBlock / 2, end_byte = (end + 1) / 2;
    const auto codes = read_items<std::uint8_t>(reader, weight, StoredPart::kData, begin_byte,
                                                end_byte - begin_byte);
    const std::vector<float> absmax =
        read_absmax(reader, weight, form.double_quant, block, block_end - block);
    dequantize_four_bit(four_bit_code(form.storage), codes.data(), absmax.data(),
                        first - block * kFourBitBlock, out);
}

void read_int8(const WeightReader& reader, const WeightSpec& weight, std::int64_t first,
               std::span<float> out) {
    const auto end = first + static_cast<std::int64_t>(out.size());
    const std::int64_t row = first / weight.cols, begin = row * weight.cols;
    const auto codes =
        read_items<std::int8_t>(reader, weight, StoredPart::kData, begin, end - begin);
    const auto absmax = read_items<float>(reader, weight, StoredPart::kAbsmax, row,
                                          (end - 1) / weight.cols + 1 - row);
    dequantize_int8(codes.data(), absmax.data(), weight.cols, first - begin, out);
}

}  // namespace

void read_dequantized(const WeightReader& reader, const WeightSpec& weight, std::int64_t first,
                      std::span<float> out) {
    const WeightForm form = reader.form(weight);
    while (!out.empty()) {
        const std::span<float> chunk =
            out.first(std::min(out.size(), static_cast<std::size_t>(kChunk)));
        if (form.storage == Storage::kInt8) {
            read_int8(reader, weight, first, chunk);
        } else {
            read_four_bit(reader, weight, form, first, chunk);
        }
        first += static_cast<std::int64_t>(chunk.size());
        out = out.subspan(chunk.size());
    }
}

}  // namespace qshard
