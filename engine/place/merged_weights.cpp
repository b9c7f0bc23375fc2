#include "place/merged_weights.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/parallel.h"
#include "place/import.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"
#include "tensor/rounding.h"

namespace qshard {
namespace {

constexpr std::int64_t kTaskWeights = 1 << 16;  // whole 4-bit blocks

void round_to(DType dtype, std::span<float> values) {
    if (dtype == DType::kBF16) round_to_bf16(values);
    if (dtype == DType::kF16) round_to_half(values);
}

/// Scales a row to its magnitude; a row of zeros stays one.
void set_length(float magnitude, std::span<float> row) {
    double squares = 0;
    for (float value : row) squares += double{value} * double{value};
    const auto norm = static_cast<float>(std::sqrt(squares));
    const float factor = norm > 0 ? magnitude / norm : 0.0f;
    for (float& value : row) value *= factor;
}

}  // namespace

MergedWeights::MergedWeights(const WeightReader& weights, const AdapterLayout& adapter,
                             std::span<const float> values, DType base)
    : weights_(weights),
      config_(weights.config()),
      adapter_(adapter),
      values_(values),
      base_(base) {
    for (std::int64_t l = 0; l < config_.layers; ++l) {
        for (const WeightSpec& weight : layer_weights(config_, l)) {
            const AdapterPart part = adapter.part_of(l, weight);
            if (part.target != nullptr) parts_.emplace(weight.name, part);
        }
    }
    if (adapter.trains_embedding() || adapter.trains_head()) config_.tied_head = false;
}

DType MergedWeights::source_dtype(const WeightSpec& weight) const {
    if (part_of(weight).target != nullptr || trained(weight) != nullptr) return DType::kF32;
    return weights_.source_dtype(in_base(weight));
}

const TrainedWeight* MergedWeights::trained(const WeightSpec& weight) const {
    const auto found = std::ranges::find(adapter_.weights, weight.name, &TrainedWeight::weight);
    return found == adapter_.weights.end() ? nullptr : &*found;
}

/// The weight itself, or the embedding that was the head too.
WeightSpec MergedWeights::in_base(const WeightSpec& weight) const {
    if (weight.role != Role::kHead || !weights_.config().tied_head) return weight;
    return embedding_weights(weights_.config()).front();
}

AdapterPart MergedWeights::part_of(const WeightSpec& weight) const {
    const auto found = parts_.find(weight.name);
    return found == parts_.end() ? AdapterPart() : found->second;
}

void MergedWeights::read_base(const WeightSpec& weight, std::int64_t first,
                              std::span<float> out) const {
    const WeightSpec source = in_base(weight);
    weights_.read(source, first, out);
    round_to(weights_.source_dtype(source) == DType::kBF16 ? DType::kBF16 : base_, out);
}

/// out[i] += scale * (B A) of the weight's row `row`, columns [first, first + out.size()).
void MergedWeights::add_product(const AdapterPart& part, std::int64_t row, std::int64_t first,
                                std::span<float> out) const {
    const AdapterTarget& target = *part.target;
    const float* b = values_.data() + target.b_of_row(part.first_row + row);
    const float* a = values_.data() + target.a_of(part.expert) + first;
    std::vector<float> sum(out.size(), 0.0f);
    for (std::int64_t k = 0; k < target.r; ++k, a += target.in) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[k] * a[i];
    }
    for (float& value : sum) value *= target.scale;
    if (target.is_parameter()) round_to(base_, sum);
    for (std::size_t i = 0; i < sum.size(); ++i) out[i] += sum[i];
}

void MergedWeights::read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const {
    if (const TrainedWeight* own = trained(weight)) {
        const auto values = values_.subspan(static_cast<std::size_t>(own->tensor.offset + first));
        std::ranges::copy(values.first(out.size()), out.begin());
        return;
    }
    read_base(weight, first, out);
    const AdapterPart adapted = part_of(weight);
    const AdapterTarget* target = adapted.target;
    if (target == nullptr) return;
    std::vector<float> whole;  // a row of which `out` has a part
    for (std::size_t done = 0; done < out.size();) {
        const std::int64_t at = first + static_cast<std::int64_t>(done);
        const std::int64_t row = at / weight.cols, column = at % weight.cols;
        const std::size_t count =
            std::min(out.size() - done, static_cast<std::size_t>(weight.cols - column));
        const std::span<float> part = out.subspan(done, count);
        done += count;
        if (!target->has_magnitudes()) {
            add_product(adapted, row, column, part);
            continue;
        }
        const bool is_whole = count == static_cast<std::size_t>(weight.cols);
        if (!is_whole) {
            whole.resize(static_cast<std::size_t>(weight.cols));
            read_base(weight, row * weight.cols, whole);
        }
        const std::span<float> line = is_whole ? part : std::span(whole);
        add_product(adapted, row, 0, line);
        set_length(values_[static_cast<std::size_t>(target->magnitude + row)], line);
        if (!is_whole) std::copy_n(whole.begin() + column, count, part.begin());
    }
}

QuantizedWeights::QuantizedWeights(const WeightReader& weights, const LayoutOptions& options,
                                   int threads)
    : weights_(weights), options_(options), threads_(threads) {}

std::shared_ptr<const QuantizedWeights::Codes> QuantizedWeights::codes_of(
    const WeightSpec& weight) const {
    const std::lock_guard lock(mutex_);
    if (last_ != nullptr && last_->name == weight.name) return last_;
    auto made = std::make_shared<Codes>();
    made->name = weight.name;
    if (options_.quantization == Quantization::kInt8) {
        quantize_rows(weight, *made);
    } else {
        quantize_blocks(weight, *made);
    }
    last_ = made;
    return made;
}

void QuantizedWeights::quantize_blocks(const WeightSpec& weight, Codes& made) const {
    const FourBitCode& code = four_bit_code(storage_of(options_.quantization));
    const std::int64_t count = weight.count();
    made.codes.resize(static_cast<std::size_t>((count + 1) / 2));
    made.absmax.resize(static_cast<std::size_t>((count + kFourBitBlock - 1) / kFourBitBlock));
    parallel_for(threads_, (count + kTaskWeights - 1) / kTaskWeights, [&](std::int64_t task) {
        const std::int64_t at = task * kTaskWeights;
        quantize_elements(weights_, weight, options_.plain_dtype, code, at,
                          std::min(kTaskWeights, count - at), made.codes.data() + at / 2,
                          made.absmax.data() + at / kFourBitBlock);
    });
    if (!options_.double_quant) return;
    const std::size_t blocks = made.absmax.size();
    std::vector<std::uint8_t> codes(blocks);
    std::vector<float> absmax2((blocks + kNestedBlock - 1) / kNestedBlock);
    const float offset = mean_absmax(made.absmax);
    double_quantize(made.absmax, offset, codes.data(), absmax2.data());
    reconstruct_absmax(codes, absmax2.data(), offset, made.absmax.data());
}

void QuantizedWeights::quantize_rows(const WeightSpec& weight, Codes& made) const {
    const bool round = rounds_on_import(weights_, weight, options_.plain_dtype);
    made.codes.resize(static_cast<std::size_t>(weight.count()));
    made.absmax.resize(static_cast<std::size_t>(weight.rows));
    parallel_for(threads_, weight.rows, [&](std::int64_t row) {
        std::vector<float> values(static_cast<std::size_t>(weight.cols));
        weights_.read(weight, row * weight.cols, values);
        if (round) round_to_bf16(values);
        auto* codes = reinterpret_cast<std::int8_t*>(made.codes.data());
        quantize_int8_row(values, codes + row * weight.cols,
                          &made.absmax[static_cast<std::size_t>(row)]);
    });
}

void QuantizedWeights::read(const WeightSpec& weight, std::int64_t first,
                            std::span<float> out) const {
    if (!quantizes(weight)) {
        weights_.read(weight, first, out);
        return;
    }
    const std::shared_ptr<const Codes> codes = codes_of(weight);
    const std::uint8_t* data = codes->codes.data();
    if (options_.quantization == Quantization::kInt8) {
        dequantize_int8(reinterpret_cast<const std::int8_t*>(data), codes->absmax.data(),
                        weight.cols, first, out);
    } else {
        dequantize_four_bit(four_bit_code(storage_of(options_.quantization)), data,
                            codes->absmax.data(), first, out);
    }
}

}  // namespace qshard
