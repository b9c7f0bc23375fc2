#include "model/tape.h"

#include <algorithm>

#include "tensor/arena.h"

namespace qshard {
namespace {

bool has_dense_layers(const ModelConfig& config) {
    return config.experts == 0 ||
           std::any_of(config.layer.begin(), config.layer.end(),
                       [](const LayerConfig& layer) { return !layer.experts; });
}

/// Calls take(tensor, dtype, columns) for every tensor of a tape: the one description of its
/// layout.
template <class Take>
void for_each_tensor(Tape& tape, const ModelConfig& c, AdapterNeeds adapter, DType compute,
                     Take&& take) {
    const auto u = [&tape](Role role) -> Tensor& { return tape.u[static_cast<std::size_t>(role)]; };
    const auto scaled = [&](Role role, std::int64_t out) {
        if (adapter.scaled) take(tape.scaled[static_cast<std::size_t>(role)], compute, out);
    };
    take(tape.h1, compute, c.width);
    if (c.qk_norm || adapter.outputs) {
        take(tape.q_raw, compute, c.q_width());
        take(tape.k_raw, compute, c.kv_width());
    }
    take(tape.q, compute, c.q_width());
    take(tape.k, compute, c.kv_width());
    take(tape.v, compute, c.kv_width());
    scaled(Role::kQ, c.q_width());
    scaled(Role::kK, c.kv_width());
    scaled(Role::kV, c.kv_width());
    scaled(Role::kO, c.width);
    take(tape.attention, compute, c.q_width());
    take(tape.lse, DType::kF32, c.heads);
    const bool keeps_branches = c.post_norms || c.residual_scale != 1.0f;
    if (keeps_branches || adapter.outputs) take(tape.attention_out, DType::kF32, c.width);
    take(tape.x_mid, DType::kF32, c.width);
    take(tape.h2, compute, c.width);
    if (has_dense_layers(c)) {
        if (c.gated_mlp) take(tape.gate, compute, c.ffn_width);
        take(tape.up, compute, c.ffn_width);
        take(tape.activated, compute, c.ffn_width);
        if (c.gated_mlp) scaled(Role::kGate, c.ffn_width);
        scaled(Role::kUp, c.ffn_width);
        scaled(Role::kDown, c.width);
    }
    if (c.experts > 0) {
        const std::int64_t assigned = c.experts_per_token * c.expert_width;
        take(tape.router, DType::kF32, c.experts);
        take(tape.expert_gate, compute, assigned);
        take(tape.expert_up, compute, assigned);
        take(tape.expert_activated, compute, assigned);
        take(tape.expert_in, compute, c.width);
        take(tape.expert_out, DType::kF32, c.width);
    }
    const bool adapted_mlp = adapter.outputs && c.experts == 0;
    if (keeps_branches || adapted_mlp) take(tape.mlp_out, DType::kF32, c.width);
    if (c.post_norms) take(tape.branch, DType::kF32, c.width);
    if (adapter.r > 0) {
        for (Role role : linear_roles(c)) take(u(role), compute, adapter.r);
    }
    if (adapter.expert_r > 0) {
        for (Role role : {Role::kExpertGateUp, Role::kExpertDown})
            take(u(role), compute, c.experts_per_token * adapter.expert_r);
    }
    if (adapter.router_r > 0) take(u(Role::kRouter), DType::kF32, adapter.router_r);
}

}  // namespace

AdapterNeeds needs_of(const AdapterLayout* adapter, bool backward) {
    if (adapter == nullptr) return {};
    AdapterNeeds needs;
    const bool dora = backward && adapter->rows > 0;
    needs.scaled = dora && adapter->options.dropout > 0;
    needs.outputs = dora && !needs.scaled;
    for (const AdapterTarget& target : adapter->targets) {
        std::int64_t& r = target.experts > 0             ? needs.expert_r
                          : target.role == Role::kRouter ? needs.router_r
                                                         : needs.r;
        r = std::max(r, target.r);
    }
    return needs;
}

std::size_t tape_bytes(const ModelConfig& config, AdapterNeeds adapter, std::int64_t tokens,
                       DType compute) {
    Tape tape;
    std::size_t bytes = 0;
    for_each_tensor(tape, config, adapter, compute, [&](Tensor&, DType dtype, std::int64_t cols) {
        bytes += Scratch::aligned(static_cast<std::size_t>(tokens * cols) * bytes_of(dtype));
    });
    return bytes;
}

Tape make_tape(const ModelConfig& config, AdapterNeeds adapter, std::int64_t tokens, DType compute,
               std::byte* memory) {
    Tape tape;
    tape.adapter = adapter;
    Scratch scratch(memory, tape_bytes(config, adapter, tokens, compute));
    for_each_tensor(tape, config, adapter, compute,
                    [&](Tensor& tensor, DType dtype, std::int64_t cols) {
                        tensor = scratch.take(dtype, {tokens, cols});
                    });
    const auto by_assignment = [&](Tensor& tensor, std::int64_t cols) {
        if (!tensor.empty()) tensor = tensor.reshaped({tokens * config.experts_per_token, cols});
    };
    for (Tensor* tensor : {&tape.expert_gate, &tape.expert_up, &tape.expert_activated})
        by_assignment(*tensor, config.expert_width);
    for (Role role : {Role::kExpertGateUp, Role::kExpertDown})
        by_assignment(tape.u[static_cast<std::size_t>(role)], adapter.expert_r);
    return tape;
}

}  // namespace qshard
