#pragma once

#include "backend/backend.h"

/// The norm of a model over its width, whichever of the two its family has.
namespace qshard {

/// Parameters of one norm, fp32 [C].
struct Norm {
    Tensor gain;
    Tensor bias;  ///< empty but for LayerNorm

    /// y = norm(x); dtypes and aliasing as the backend's operations.
    void forward(Backend& backend, const ModelConfig& config, Tensor x, Tensor y) const {
        if (config.norm == NormKind::kLayer) {
            backend.layer_norm(x, gain, bias, config.norm_eps, y);
        } else {
            backend.rms_norm(x, gain, config.norm_eps, config.norm_offset, y);
        }
    }
    /// dx = or += the derivative by x from that by the output.
    void backward(Backend& backend, const ModelConfig& config, Tensor x, Tensor dy, Tensor dx,
                  bool accumulate) const {
        if (config.norm == NormKind::kLayer) {
            backend.layer_norm_backward(x, gain, config.norm_eps, dy, dx, accumulate);
        } else {
            backend.rms_norm_backward(x, gain, config.norm_eps, config.norm_offset, dy, dx,
                                      accumulate);
        }
    }
};

}  // namespace qshard
