#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace qshard {

/// One product of a training step: `rows` tokens through a weight [out, in].
struct GemmShape {
    std::string name;  ///< "q_proj", "head"
    std::int64_t out = 0, in = 0;
    std::int64_t uses = 0;  ///< of a step
    double seconds_forward = 0, seconds_backward = 0;

    double flops(std::int64_t rows) const {
        return 2.0 * static_cast<double>(rows) * static_cast<double>(out) * static_cast<double>(in);
    }
};

/// The frozen linears and the head of a model, timed through Backend::gemm with `rows` tokens (the
/// head: at most its chunk of rows), the best of several calls each. Weights are expanded
/// beforehand: what remains is the rate that a step's speed is a share of.
struct GemmRate {
    std::vector<GemmShape> shapes;
    double flops_per_second = 0;  ///< weighted as a step uses them, forward and backward
};
GemmRate measure_gemm_rate(Backend& backend, const ModelConfig& config, std::int64_t rows,
                           DType compute);

}  // namespace qshard
