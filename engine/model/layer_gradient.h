#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace qshard {

/// Where the gradients of a layer go, slot by slot: element i of the flat vector to
/// values[s * stride + i - begin] for slot s of the call.
struct LayerGradient {
    float* values = nullptr;
    std::int64_t begin = 0, stride = 0;
    Tensor ones;  ///< fp32 [tokens of the plan, 1]; read only where biases are trained

    float* at(std::int64_t offset, std::size_t slot = 0) const {
        return values + static_cast<std::int64_t>(slot) * stride + (offset - begin);
    }
};

}  // namespace qshard
