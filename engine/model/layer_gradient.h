#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace qshard {

/// Where the gradients of a layer go: element i of the flat vector to values[i - begin]; or, if
/// values is null, nowhere.
struct LayerGradient {
    float* values = nullptr;
    std::int64_t begin = 0;
    Tensor ones;  ///< fp32 [tokens of the plan, 1]; read only where biases are trained

    float* at(std::int64_t offset) const { return values + (offset - begin); }
};

}  // namespace qshard
