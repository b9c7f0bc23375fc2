#include "model/tape.h"

#include "tensor/arena.h"

namespace qshard {
namespace {

/// Calls take(tensor, dtype, columns) for every tensor of a tape: the one description of its
/// layout.
template <class Take>
void for_each_tensor(Tape& tape, const ModelConfig& c, std::int64_t r, DType compute, Take&& take) {
    take(tape.h1, compute, c.width);
    if (c.qk_norm) {
        take(tape.q_raw, compute, c.q_width());
        take(tape.k_raw, compute, c.kv_width());
    }
    take(tape.q, compute, c.q_width());
    take(tape.k, compute, c.kv_width());
    take(tape.v, compute, c.kv_width());
    take(tape.attention, compute, c.q_width());
    take(tape.lse, DType::kF32, c.heads);
    const bool keeps_branches = c.post_norms || c.residual_scale != 1.0f;
    if (keeps_branches) take(tape.attention_out, DType::kF32, c.width);
    take(tape.x_mid, DType::kF32, c.width);
    take(tape.h2, compute, c.width);
    if (c.gated_mlp) take(tape.gate, compute, c.ffn_width);
    take(tape.up, compute, c.ffn_width);
    take(tape.activated, compute, c.ffn_width);
    if (keeps_branches) take(tape.mlp_out, DType::kF32, c.width);
    if (c.post_norms) take(tape.branch, DType::kF32, c.width);
    if (r > 0) {
        for (Role role : linear_roles(c)) take(tape.u[static_cast<std::size_t>(role)], compute, r);
    }
}

}  // namespace

std::size_t tape_bytes(const ModelConfig& config, std::int64_t r, std::int64_t tokens,
                       DType compute) {
    Tape tape;
    std::size_t bytes = 0;
    for_each_tensor(tape, config, r, compute, [&](Tensor&, DType dtype, std::int64_t cols) {
        bytes += Scratch::aligned(static_cast<std::size_t>(tokens * cols) * bytes_of(dtype));
    });
    return bytes;
}

Tape make_tape(const ModelConfig& config, std::int64_t r, std::int64_t tokens, DType compute,
               std::byte* memory) {
    Tape tape;
    Scratch scratch(memory, tape_bytes(config, r, tokens, compute));
    for_each_tensor(tape, config, r, compute, [&](Tensor& tensor, DType dtype, std::int64_t cols) {
        tensor = scratch.take(dtype, {tokens, cols});
    });
    return tape;
}

}  // namespace qshard
