#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "comm/communicator.h"
#include "spec/layout.h"
#include "spec/weights.h"
#include "tensor/nf4.h"

/// From a model's files to the ranks' shards of 4-bit bytes. Every rank reads and quantizes only
/// the bytes it will own; nobody ever holds an unquantized matrix, let alone the model.
namespace qshard {

/// Called after each unit with the number of weights done by this rank and the number it will do in
/// all.
using ImportProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Fills this rank's shard of one unit, in host memory: shard has unit.shard_bytes(W) bytes.
/// Returns the number of weights read. Collective (the absmax values of a matrix are exchanged,
/// because double quantization needs their mean). What the source has quantized is taken
/// as it is; of a weight store, the shard is read whole and the unit checked. Values are rounded to
/// bf16 before quantizing unless the source is fp32 or fp16 and options.plain_dtype is fp32, as
/// transformers does on loading. What a rank cannot read, or values that are not finite, are an
/// AgreedError on all.
std::int64_t import_unit(const WeightReader& reader, const UnitLayout& unit,
                         const LayoutOptions& options, Communicator& group, int threads,
                         std::span<std::byte> shard);

/// 4-bit codes and absmax of elements [first, first + count) of a weight, from the beginning of a
/// block on, after the rounding that an import does.
void quantize_elements(const WeightReader& reader, const WeightSpec& weight, DType plain_dtype,
                       const FourBitCode& code, std::int64_t first, std::int64_t count,
                       std::uint8_t* codes, float* absmax);

}  // namespace qshard
