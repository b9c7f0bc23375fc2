#include <initializer_list>

#include "model/decoder.h"
#include "tensor/arena.h"

namespace qshard {
namespace {

/// What the backward of one block works in; the one description of its scratch memory.
struct Work {
    Tensor d_ffn;        ///< [N, F]
    Tensor d_attention;  ///< [N, H*D]
    Tensor dq, dk, dv;   ///< fp32 [N, H*D], [N, K*D], [N, K*D]
    Tensor dh;           ///< fp32 [N, C]
    Tensor branch;       ///< fp32 [N, C], only where a branch has its own norm or scale
    Tensor du[3];        ///< [N, R]
};

template <class Take>
void for_each_tensor(Work& work, const ModelConfig& c, std::int64_t r, DType compute, Take&& take) {
    take(work.d_ffn, compute, c.ffn_width);
    take(work.d_attention, compute, c.q_width());
    take(work.dq, DType::kF32, c.q_width());
    take(work.dk, DType::kF32, c.kv_width());
    take(work.dv, DType::kF32, c.kv_width());
    take(work.dh, DType::kF32, c.width);
    if (c.sandwich_norms || c.residual_scale != 1.0f) take(work.branch, DType::kF32, c.width);
    if (r > 0) {
        for (Tensor& du : work.du) take(du, compute, r);
    }
}

}  // namespace

/// One backward call: the operands that every linear of the block shares.
struct Decoder::Backward {
    Backend& backend;
    DType compute;
    Tape& tape;
    float* gradient;  ///< of the layer, or null
    std::int64_t layer_begin;
    Work work;

    /// A linear seen from its output: its pack, its input x and the derivative of its output.
    struct Branch {
        Role role;
        const LinearPack& pack;
        Tensor x, dy;
    };

    /// dx = sum over branches (they share their input) of dy W + du A, and the LoRA gradients of
    /// each.
    void linears(std::initializer_list<Branch> branches, Tensor dx) {
        GemmTerm terms[6];
        std::size_t count = 0, index = 0;
        for (const Branch& branch : branches) {
            terms[count++] = {branch.dy, branch.pack.backward};
            if (branch.pack.target == nullptr) continue;
            Tensor du = work.du[index++];
            const GemmTerm up{branch.dy, branch.pack.b_backward};
            backend.gemm({&up, 1}, Tensor(), du, false);
            terms[count++] = {du, branch.pack.a_backward};
            if (gradient != nullptr) lora_gradient(branch, du);
        }
        backend.gemm({terms, count}, Tensor(), dx, false);
    }

    void lora_gradient(const Branch& branch, Tensor du) {
        const AdapterTarget& t = *branch.pack.target;
        Tensor da(gradient + (t.a - layer_begin), DType::kF32, {t.r, t.in});
        Tensor db(gradient + (t.b - layer_begin), DType::kF32, {t.out, t.r});
        backend.gemm_rows(du, branch.x, 1.0f, compute, da, false);
        backend.gemm_rows(tape.u[static_cast<std::size_t>(branch.role)], branch.dy, t.scale,
                          compute, db, true);
    }
};

std::size_t Decoder::backward_scratch_bytes(const ModelConfig& config, std::int64_t r,
                                            std::int64_t tokens, DType compute) {
    Work work;
    std::size_t bytes = 0;
    for_each_tensor(work, config, r, compute, [&](Tensor&, DType dtype, std::int64_t cols) {
        bytes += Scratch::aligned(static_cast<std::size_t>(tokens * cols) * bytes_of(dtype));
    });
    return bytes;
}

void Decoder::backward(std::int64_t layer, const BlockPacks& packs, const TokenContext& context,
                       Tensor x_in, Tape& tape, Tensor dx, float* gradient,
                       std::int64_t layer_begin, std::byte* scratch_memory) {
    const std::int64_t n = context.tokens, d = config_.head_width;
    const Tensor& any_u = tape.u[static_cast<std::size_t>(Role::kQ)];
    const std::int64_t r = any_u.empty() ? 0 : any_u.cols();
    Backward b{backend_, compute_, tape, gradient, layer_begin, {}};
    Scratch scratch(scratch_memory, backward_scratch_bytes(config_, r, n, compute_));
    for_each_tensor(b.work, config_, r, compute_,
                    [&](Tensor& tensor, DType dtype, std::int64_t cols) {
                        tensor = scratch.take(dtype, {n, cols});
                    });
    const float eps = config_.norm_eps;
    const bool offset = config_.norm_offset;
    // Derivative of a branch's linear output from that of the residual stream it was added to.
    auto through_branch = [&](Tensor kept, Role post_norm) {
        if (kept.empty()) return dx;
        backend_.copy(dx, b.work.branch);
        backend_.scale(b.work.branch, config_.residual_scale);
        if (config_.sandwich_norms) {
            backend_.rms_norm_backward(kept, packs.gain(post_norm), eps, offset, b.work.branch,
                                       b.work.branch, false);
        }
        return b.work.branch;
    };

    const Tensor d_mlp = through_branch(tape.mlp_out, Role::kPostFfnNorm);
    b.linears({{Role::kDown, packs.at(Role::kDown), tape.activated, d_mlp}}, b.work.d_ffn);
    backend_.activate_backward(config_.activation, tape.gate, tape.up, b.work.d_ffn, tape.gate,
                               tape.up);
    if (config_.gated_mlp) {
        b.linears({{Role::kGate, packs.at(Role::kGate), tape.h2, tape.gate},
                   {Role::kUp, packs.at(Role::kUp), tape.h2, tape.up}},
                  b.work.dh);
    } else {
        b.linears({{Role::kUp, packs.at(Role::kUp), tape.h2, tape.up}}, b.work.dh);
    }
    backend_.rms_norm_backward(tape.x_mid, packs.gain(Role::kNorm2), eps, offset, b.work.dh, dx,
                               true);

    const Tensor d_out = through_branch(tape.attention_out, Role::kPostAttentionNorm);
    b.linears({{Role::kO, packs.at(Role::kO), tape.attention, d_out}}, b.work.d_attention);
    backend_.attention_backward(attention_shape(layer, context), tape.q, tape.k, tape.v,
                                tape.attention, tape.lse, b.work.d_attention, b.work.dq, b.work.dk,
                                b.work.dv);
    rotate(layer, context, b.work.dq, b.work.dk, true);
    if (config_.qk_norm) {
        auto head_norm = [&](Tensor raw, Role norm, Tensor grad, std::int64_t heads) {
            const Tensor rows = grad.reshaped({n * heads, d});
            backend_.rms_norm_backward(raw.reshaped({n * heads, d}), packs.gain(norm), eps, offset,
                                       rows, rows, false);
        };
        head_norm(tape.q_raw, Role::kQNorm, b.work.dq, config_.heads);
        head_norm(tape.k_raw, Role::kKNorm, b.work.dk, config_.kv_heads);
    }
    b.linears({{Role::kQ, packs.at(Role::kQ), tape.h1, b.work.dq},
               {Role::kK, packs.at(Role::kK), tape.h1, b.work.dk},
               {Role::kV, packs.at(Role::kV), tape.h1, b.work.dv}},
              b.work.dh);
    backend_.rms_norm_backward(x_in, packs.gain(Role::kNorm1), eps, offset, b.work.dh, dx, true);
}

}  // namespace qshard
