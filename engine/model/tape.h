#pragma once

#include <array>
#include <cstddef>

#include "backend/backend.h"
#include "spec/adapter.h"

namespace qshard {

/// What an adapter asks of the memory of a block.
struct AdapterNeeds {
    std::int64_t r = 0;         ///< largest rank of modules; 0 without an adapter
    std::int64_t expert_r = 0;  ///< of experts' parameters
    std::int64_t router_r = 0;
    // For the derivatives of DoRA's magnitudes:
    bool outputs = false;  ///< every output of an adapted linear is kept;
    bool scaled = false;   ///< with dropout instead that part of it which row factors scale
};

/// adapter may be null; `backward`: it is trained.
AdapterNeeds needs_of(const AdapterLayout* adapter, bool backward);

/// What the backward of one block needs of its forward, for N tokens. Activations have the compute
/// dtype, the residual stream and statistics are fp32.
struct Tape {
    Tensor h1;             ///< [N, C] norm1(x)
    Tensor q_raw, k_raw;   ///< [N, H*D], [N, K*D] as projected; only with qk_norm or outputs
    Tensor q, k, v;        ///< [N, H*D], [N, K*D], [N, K*D] after RoPE
    Tensor attention;      ///< [N, H*D]
    Tensor lse;            ///< [N, H] fp32
    Tensor attention_out;  ///< [N, C] fp32 before its norm and scale; only where the branch has
                           ///< either, or with outputs
    Tensor x_mid;          ///< [N, C] fp32 residual stream after attention
    Tensor h2;             ///< [N, C] norm2(x_mid)
    Tensor gate, up;       ///< [N, F]; no gate without a gated MLP
    Tensor activated;      ///< [N, F]
    Tensor mlp_out;        ///< [N, C] fp32, likewise
    Tensor branch;  ///< [N, C] fp32 scratch for a branch's normed output; only with post norms
    Tensor router;  ///< [N, E] fp32 logits of the router; these and the rest only with experts
    Tensor expert_gate, expert_up, expert_activated;  ///< [N*k, F'] rows in the order of a Routing
    Tensor expert_in;   ///< [N, C] scratch for the tokens of one expert
    Tensor expert_out;  ///< [N, C] fp32 scratch, likewise
    std::array<Tensor, static_cast<std::size_t>(Role::kCount)>
        u;  ///< [N, R] x A^T of each adapted linear, by the role it is stored under; R: largest
            ///< rank. Of experts [N*k, R] in the order of a Routing, of the router fp32

    std::array<Tensor, static_cast<std::size_t>(Role::kCount)>
        scaled;  ///< [N, out] by role (of the parts, where it is fused); only with
                 ///< AdapterNeeds::scaled

    AdapterNeeds adapter;

    /// As many columns of it as the target has ranks.
    Tensor u_of(const AdapterTarget& target) const {
        const Tensor& all = u[static_cast<std::size_t>(target.role)];
        return {all.data(), all.dtype(), {all.rows(), target.r}};
    }
};

/// Bytes of a tape of `tokens` tokens.
std::size_t tape_bytes(const ModelConfig& config, AdapterNeeds adapter, std::int64_t tokens,
                       DType compute);
/// Lays a tape out in `memory` (tape_bytes long).
Tape make_tape(const ModelConfig& config, AdapterNeeds adapter, std::int64_t tokens, DType compute,
               std::byte* memory);

}  // namespace qshard
