#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/formats/safetensors.h"

namespace qshard {

/// A tensor of a file to write.
struct SafetensorsEntry {
    std::string name;
    SafetensorsType type = SafetensorsType::kF32;
    std::vector<std::int64_t> shape;

    std::uint64_t bytes() const;
};

/// The order of the reference writer: wide dtypes first, then by name.
void sort_as_reference(std::vector<SafetensorsEntry>& entries);
/// What stands before the data of these tensors, in this order: the length, and the compact header
/// with metadata {"format": "pt"}, padded with spaces to a multiple of 8.
std::string safetensors_header(std::span<const SafetensorsEntry> entries);

/// A named fp32 tensor of somebody else's memory.
struct FloatTensorView {
    std::string name;
    std::vector<std::int64_t> shape;
    std::span<const float> values;
};

/// The whole file that the reference writer makes of these tensors.
std::vector<std::byte> safetensors_bytes(std::vector<FloatTensorView> tensors);

}  // namespace qshard
