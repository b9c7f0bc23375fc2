#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "io/checkpoint/atomic_file.h"
#include "spec/weights.h"

namespace qshard {

/// How models are written.
struct ExportOptions {
    DType dtype = DType::kBF16;  ///< of matrices; GGUF keeps vectors in fp32
    int threads = 1;
    std::uint64_t max_shard_bytes = 5'000'000'000;  ///< of one safetensors file
    std::function<void(std::int64_t done, std::int64_t total)>
        progress;  ///< in weights; may be empty
};

/// What a writer does to a weight on its way into the file.
struct WeightChange {
    std::int64_t interleaved_heads =
        0;                    ///< > 0: rows of each of so many heads, as GGUF orders them
    float added = 0;          ///< to every element
    bool transposed = false;  ///< written as [cols, rows]; the weight is then held in memory
};

/// Writes weights to files through a buffer of a few MiB, reading and converting on all threads.
class WeightStream {
  public:
    WeightStream(const WeightReader& weights, const ExportOptions& options);

    /// Appends the whole weight, row-major, as `dtype` (rounded to nearest even). UserError if a
    /// finite value is beyond the dtype's range.
    void write(const WeightSpec& weight, DType dtype, const WeightChange& change, ByteSink& file);

  private:
    void write_transposed(const WeightSpec& weight, DType dtype, ByteSink& file);
    void convert(const WeightSpec& weight, DType dtype, const WeightChange& change,
                 std::int64_t first, std::span<std::byte> out) const;

    const WeightReader& weights_;
    const ExportOptions& options_;
    std::int64_t done_ = 0, total_ = 0;
    std::vector<std::byte> buffer_;
};

/// What follows `bytes` bytes of a GGUF file's piece, and a piece with it.
void write_padding(ByteSink& file, std::size_t bytes);
void write_padded(ByteSink& file, std::span<const std::byte> bytes);

/// Every weight of a model and its layer (0 outside the layers), in the order embedding, layers,
/// head.
struct PlacedWeight {
    WeightSpec weight;
    std::int64_t layer = 0;
};
std::vector<PlacedWeight> all_weights(const ModelConfig& config);

/// Shape in the model's own terms: vectors have one dimension.
std::vector<std::int64_t> shape_of(const WeightSpec& weight);

}  // namespace qshard
