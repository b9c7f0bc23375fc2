#include "io/export/weight_stream.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "io/formats/gguf_writer.h"

namespace qshard {
namespace {

constexpr std::int64_t kTaskWeights = std::int64_t{1} << 18;

void store(std::span<const float> values, DType dtype, const WeightSpec& weight, std::byte* out) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        const float value = values[i];
        if (dtype == DType::kF32) {
            std::memcpy(out + 4 * i, &value, sizeof value);
            continue;
        }
        const std::uint16_t half =
            dtype == DType::kBF16 ? to_bf16(value).bits : float_to_half(value);
        if (dtype == DType::kF16 && std::isinf(half_to_float(half)) && std::isfinite(value)) {
            throw UserError(fmt::format(
                "{} holds {}, which float16 cannot represent; write bfloat16 or float32",
                weight.name, value));
        }
        std::memcpy(out + 2 * i, &half, sizeof half);
    }
}

}  // namespace

WeightStream::WeightStream(const WeightReader& weights, const ExportOptions& options)
    : weights_(weights), options_(options) {
    for (const PlacedWeight& placed : all_weights(weights.config()))
        total_ += placed.weight.count();
}

void WeightStream::convert(const WeightSpec& weight, DType dtype, const WeightChange& change,
                           std::int64_t first, std::span<std::byte> out) const {
    const std::size_t element = bytes_of(dtype);
    std::vector<float> values(out.size() / element);
    if (change.interleaved_heads == 0) {
        weights_.read(weight, first, values);
    } else {
        // Row h*D + 2i + j of the file is row h*D + j*D/2 + i of ours. A bias is rows of one
        // element.
        const std::int64_t row_length = weight.rows == 1 ? 1 : weight.cols;
        const std::int64_t d = weight.count() / row_length / change.interleaved_heads;
        const auto row_count = static_cast<std::int64_t>(values.size()) / row_length;
        for (std::int64_t i = 0; i < row_count; ++i) {
            const std::int64_t row = first / row_length + i, in_head = row % d;
            const std::int64_t ours = row - in_head + in_head % 2 * (d / 2) + in_head / 2;
            weights_.read(weight, ours * row_length,
                          std::span(values).subspan(static_cast<std::size_t>(i * row_length),
                                                    static_cast<std::size_t>(row_length)));
        }
    }
    if (change.added != 0) {
        for (float& value : values) value += change.added;
    }
    store(values, dtype, weight, out.data());
}

void WeightStream::write_transposed(const WeightSpec& weight, DType dtype, ByteSink& file) {
    std::vector<float> ours(static_cast<std::size_t>(weight.count())), theirs(ours.size());
    weights_.read(weight, 0, ours);
    const auto rows = static_cast<std::size_t>(weight.rows),
               cols = static_cast<std::size_t>(weight.cols);
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < cols; ++c) theirs[c * rows + r] = ours[r * cols + c];
    }
    buffer_.resize(theirs.size() * bytes_of(dtype));
    store(theirs, dtype, weight, buffer_.data());
    file.write(buffer_);
    done_ += weight.count();
    if (options_.progress) options_.progress(done_, total_);
}

void WeightStream::write(const WeightSpec& weight, DType dtype, const WeightChange& change,
                         ByteSink& file) {
    if (change.transposed) return write_transposed(weight, dtype, file);
    const std::size_t element = bytes_of(dtype);
    // Whole rows, so that rows can be permuted.
    const std::int64_t row_length =
        weight.rows == 1 && change.interleaved_heads > 0 ? 1 : weight.cols;
    const std::int64_t task = std::max<std::int64_t>(1, kTaskWeights / row_length) * row_length;
    const std::int64_t batch = task * options_.threads;
    for (std::int64_t first = 0; first < weight.count(); first += batch) {
        const std::int64_t count = std::min(batch, weight.count() - first);
        buffer_.resize(static_cast<std::size_t>(count) * element);
        parallel_for(options_.threads, (count + task - 1) / task, [&](std::int64_t t) {
            const std::int64_t begin = t * task, length = std::min(task, count - begin);
            convert(weight, dtype, change, first + begin,
                    std::span(buffer_).subspan(static_cast<std::size_t>(begin) * element,
                                               static_cast<std::size_t>(length) * element));
        });
        file.write(buffer_);
        done_ += count;
        if (options_.progress) options_.progress(done_, total_);
    }
}

void write_padding(ByteSink& file, std::size_t bytes) {
    static constexpr std::array<std::byte, GgufHeader::kAlignment> kZeros{};
    file.write(std::span(kZeros).first(GgufHeader::padded(bytes) - bytes));
}

void write_padded(ByteSink& file, std::span<const std::byte> bytes) {
    file.write(bytes);
    write_padding(file, bytes.size());
}

std::vector<PlacedWeight> all_weights(const ModelConfig& config) {
    std::vector<PlacedWeight> all;
    const auto add = [&all](const std::vector<WeightSpec>& weights, std::int64_t layer) {
        for (const WeightSpec& weight : weights) all.push_back({weight, layer});
    };
    add(embedding_weights(config), 0);
    for (std::int64_t l = 0; l < config.layers; ++l) add(layer_weights(config, l), l);
    add(head_weights(config), 0);
    return all;
}

std::vector<std::int64_t> shape_of(const WeightSpec& weight) {
    if (weight.rows == 1 && !weight.linear) return {weight.cols};
    return {weight.rows, weight.cols};
}

}  // namespace qshard
