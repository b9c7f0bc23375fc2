#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace qshard {

/// A named fp32 tensor of somebody else's memory.
struct FloatTensorView {
    std::string name;
    std::vector<std::int64_t> shape;
    std::span<const float> values;
};

/// The bytes the reference writer makes of these tensors with metadata {"format": "pt"}: sorted by
/// name, compact header padded with spaces to a multiple of 8.
std::vector<std::byte> safetensors_bytes(std::vector<FloatTensorView> tensors);

}  // namespace qshard
