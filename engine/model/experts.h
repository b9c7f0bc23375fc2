#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "model/block_packs.h"
#include "model/layer_gradient.h"
#include "model/tape.h"

/// The mixture of experts of one layer, in place of its MLP: the router's choice is made on the
/// host (routing.h), then each expert computes its tokens, gathered in their order, and adds its
/// share to their rows, experts ascending. No bit of a token's result depends on other tokens.
namespace qshard {

/// What the backward works in, for N tokens.
struct ExpertWork {
    Tensor rows;         ///< fp32 [N, C]: of one expert's tokens
    Tensor d_activated;  ///< [N, F'], likewise
    Tensor dots;         ///< fp32 [N*k]: derivatives by the weights of the sum
    Tensor d_router;     ///< fp32 [N, E]
    Tensor du;           ///< [N, R], of one expert's tokens; only with adapted experts
    Tensor du_router;    ///< fp32 [N, R]; only with an adapted router
};

/// out (fp32 [N, C]) += mixture(tape.h2), filling the tape. An empty `out` means that only the tape
/// is wanted.
void experts_forward(Backend& backend, const ModelConfig& config, const BlockPacks& packs,
                     Tape& tape, Tensor out);

/// dh (fp32 [N, C]) = the derivative by h2 from dy, that by the mixture's output. Through the
/// router too, whose choice is taken as constant. LoRA gradients of each slot
/// (TokenContext::slot_begin) overwrite their part of `gradient`. Consumes the tape.
void experts_backward(Backend& backend, const ModelConfig& config, const BlockPacks& packs,
                      Tape& tape, Tensor dy, const ExpertWork& work, const LayerGradient& gradient,
                      std::span<const std::int64_t> slot_begin, Tensor dh);

}  // namespace qshard
