#include <initializer_list>
#include <utility>

#include "model/decoder.h"
#include "model/experts.h"
#include "tensor/arena.h"

namespace qshard {
namespace {

/// What the backward of one block works in; the one description of its scratch memory.
struct Work {
    Tensor d_ffn;         ///< [N, F]
    Tensor d_attention;   ///< [N, H*D]
    Tensor dq, dk, dv;    ///< fp32 [N, H*D], [N, K*D], [N, K*D]
    Tensor dh;            ///< fp32 [N, C]
    Tensor branch;        ///< fp32 [N, C], only where a branch has its own norm or scale
    Tensor d_gate, d_up;  ///< [N, F], only with outputs: gate and up are read once more
    Tensor du[3];         ///< [N, R]
    ExpertWork experts;   ///< only with experts
};

template <class Take>
void for_each_tensor(Work& work, const ModelConfig& c, AdapterNeeds adapter, DType compute,
                     Take&& take) {
    take(work.d_ffn, compute, c.ffn_width);
    take(work.d_attention, compute, c.q_width());
    take(work.dq, DType::kF32, c.q_width());
    take(work.dk, DType::kF32, c.kv_width());
    take(work.dv, DType::kF32, c.kv_width());
    take(work.dh, DType::kF32, c.width);
    if (c.post_norms || c.residual_scale != 1.0f) take(work.branch, DType::kF32, c.width);
    if (c.experts > 0) {
        take(work.experts.rows, DType::kF32, c.width);
        take(work.experts.d_activated, compute, c.expert_width);
        take(work.experts.dots, DType::kF32, c.experts_per_token);
        take(work.experts.d_router, DType::kF32, c.experts);
        if (adapter.expert_r > 0) take(work.experts.du, compute, adapter.expert_r);
        if (adapter.router_r > 0) take(work.experts.du_router, DType::kF32, adapter.router_r);
    }
    if (adapter.outputs && c.experts == 0) {
        if (c.gated_mlp) take(work.d_gate, compute, c.ffn_width);
        take(work.d_up, compute, c.ffn_width);
    }
    if (adapter.r > 0) {
        for (Tensor& du : work.du) take(du, compute, adapter.r);
    }
}

}  // namespace

/// One backward call: the operands that every linear of the block shares.
struct Decoder::Backward {
    Backend& backend;
    DType compute;
    Tape& tape;
    const LayerGradient& gradient;
    std::span<const std::int64_t> slot_begin;
    const AdapterDropout* dropout;  ///< or null
    Work work;

    /// A linear seen from its output: its pack, its input x, its output y (read for magnitudes
    /// without dropout only) and the derivative of that.
    struct Branch {
        const LinearPack& pack;
        Tensor x, y, dy;
    };

    /// dx = sum over branches (they share their input) of dy W + du A, and the LoRA gradients of
    /// each. Branches that are parts of one fused linear follow each other.
    void linears(std::initializer_list<Branch> branches, Tensor dx) {
        for (const Branch& branch : branches) {
            if (branch.pack.trained_bias >= 0)
                gradient_of_bias(branch.pack.trained_bias, branch.dy);
        }
        if (dropout != nullptr) return linears_with_dropout(branches, dx);
        GemmTerm terms[6], ups[3];
        GemmCall calls[4];
        std::size_t count = 0, first = 0, parts = 0, index = 0;
        for (const Branch& branch : branches) {
            terms[count++] = {branch.dy, branch.pack.backward};
            const LinearPack& pack = branch.pack;
            if (pack.target == nullptr) continue;
            ups[first + parts++] = {branch.dy, pack.b_backward};
            if (pack.a_backward.data == nullptr) continue;  // another part follows
            const Tensor du = du_of(*pack.target, index);
            calls[index++] = {{ups + first, parts}, Tensor(), du};
            first += std::exchange(parts, 0);
            terms[count++] = {du, pack.a_backward};
        }
        calls[index] = {{terms, count}, Tensor(), dx};
        backend.gemms({calls, index + 1});
        if (gradient.values == nullptr) return;
        index = 0;
        for (const Branch& branch : branches) {
            const AdapterTarget* target = branch.pack.target;
            if (target == nullptr) continue;
            gradient_of_b(branch);
            if (branch.pack.a_backward.data != nullptr)
                gradient_of_a(*target, branch.x, du_of(*target, index++));
        }
    }

    /// The same with the masks of the forward on what the adapters read: what comes through them
    /// is made apart from dy W, in fp32. It is du A; with DoRA du A + dy (factor W) - dy W. A
    /// 16-bit dx has one linear, and is summed up before it is rounded.
    void linears_with_dropout(std::initializer_list<Branch> branches, Tensor dx) {
        const bool wide = dx.dtype() == DType::kF32;
        const Tensor sum = dropout->derivative(dx.rows(), dx.cols());
        if (wide) frozen(branches, dx, false);
        GemmTerm ups[3], scaled[4], unscaled[3];
        std::size_t parts = 0, index = 0;
        for (const Branch& branch : branches) {
            const LinearPack& pack = branch.pack;
            if (pack.target == nullptr) continue;
            scaled[parts] = {branch.dy, pack.backward};
            unscaled[parts] = {branch.dy, pack.unscaled_backward};
            ups[parts++] = {branch.dy, pack.b_backward};
            if (gradient.values != nullptr) gradient_of_b(branch);
            if (pack.a_backward.data == nullptr) continue;  // another part follows
            const Tensor du = du_of(*pack.target, index++);
            backend.gemm({ups, parts}, Tensor(), du, false);
            const Tensor dropped = dropout->input(branch.x);
            dropout->apply(backend, *pack.target, slot_begin, branch.x, false, dropped);
            if (gradient.values != nullptr) gradient_of_a(*pack.target, dropped, du);
            const bool dora = pack.unscaled_backward.data != nullptr;
            scaled[parts] = {du, pack.a_backward};
            backend.gemm({dora ? scaled : scaled + parts, dora ? parts + 1 : 1}, Tensor(), sum,
                         false);
            const Tensor product = dora ? dropout->product(dx.rows(), dx.cols()) : Tensor();
            if (dora) {
                backend.gemm({unscaled, parts}, Tensor(), product, false);
                backend.add(product, -1.0f, sum);
            }
            dropout->apply(backend, *pack.target, slot_begin, sum, wide, wide ? dx : sum);
            if (dora) backend.add(product, 1.0f, wide ? dx : sum);
            parts = 0;
        }
        if (wide) return;
        const bool adapted = index > 0;
        frozen(branches, adapted ? sum : dx, adapted);
        if (adapted) backend.copy(sum, dx);
    }

    /// dx = (or +=) sum of dy W over the branches whose W no row factors scale.
    void frozen(std::initializer_list<Branch> branches, Tensor dx, bool accumulate) {
        GemmTerm terms[3];
        std::size_t count = 0;
        for (const Branch& branch : branches) {
            if (branch.pack.unscaled_backward.data == nullptr)
                terms[count++] = {branch.dy, branch.pack.backward};
        }
        if (count > 0) {
            backend.gemm({terms, count}, Tensor(), dx, accumulate);
        } else if (!accumulate) {
            backend.fill_zero(dx);
        }
    }

    /// Where du = dy (scale B) of the target goes, the index-th of its input.
    Tensor du_of(const AdapterTarget& target, std::size_t index) const {
        const Tensor& memory = work.du[index];
        return {memory.data(), memory.dtype(), {memory.rows(), target.r}};
    }

    /// The sum of the rows of the derivative by what the bias was added to.
    void gradient_of_bias(std::int64_t offset, Tensor dy) {
        if (gradient.values == nullptr) return;
        const Tensor db(gradient.at(offset), DType::kF32, {1, dy.cols()});
        backend.gemm_rows_of_slots(gradient.ones.row_range(0, dy.rows()), dy, slot_begin, 1.0f,
                                   DType::kF32, db, gradient.stride, false);
    }

    void gradient_of_a(const AdapterTarget& t, Tensor x, Tensor du) {
        Tensor da(gradient.at(t.a), DType::kF32, {t.r, t.in});
        backend.gemm_rows_of_slots(du, x, slot_begin, 1.0f, compute, da, gradient.stride, false);
    }
    /// The rows of B that belong to this part, and their magnitudes.
    void gradient_of_b(const Branch& branch) {
        const LinearPack& pack = branch.pack;
        const AdapterTarget& t = *pack.target;
        const std::int64_t out = branch.dy.cols(), b = t.b + pack.first_row * t.r;
        const Tensor db(gradient.at(b), DType::kF32, {out, t.r});
        backend.gemm_rows_of_slots(tape.u_of(t), branch.dy, slot_begin, t.scale, compute, db,
                                   gradient.stride, true);
        if (!t.has_magnitudes()) return;
        const Tensor& scaled = tape.scaled[static_cast<std::size_t>(pack.role)];
        const bool apart = !scaled.empty();
        const Tensor& y = apart ? scaled : branch.y;
        for (std::size_t s = 0; s + 1 < slot_begin.size(); ++s) {
            const std::int64_t first = slot_begin[s], rows = slot_begin[s + 1] - first;
            const Tensor db_of_slot(gradient.at(b, s), DType::kF32, {out, t.r});
            const Tensor dm(gradient.at(t.magnitude + pack.first_row, s), DType::kF32, {out});
            backend.magnitude_backward(branch.dy.row_range(first, rows), y.row_range(first, rows),
                                       apart ? Tensor() : pack.bias, pack.magnitude,
                                       pack.row_factor, db_of_slot, dm);
        }
    }
};

std::size_t Decoder::backward_scratch_bytes(const ModelConfig& config, AdapterNeeds adapter,
                                            std::int64_t tokens, DType compute) {
    Work work;
    std::size_t bytes = 0;
    for_each_tensor(work, config, adapter, compute, [&](Tensor&, DType dtype, std::int64_t cols) {
        bytes += Scratch::aligned(static_cast<std::size_t>(tokens * cols) * bytes_of(dtype));
    });
    return bytes;
}

/// dx += the derivative by x of a branch that starts with a norm (or without one), from b.work.dh.
void Decoder::through_norm(const BlockPacks& packs, Role norm, Tensor x, Tensor dx, Backward& b) {
    if (!config_.pre_norms) {
        backend_.add(b.work.dh, 1.0f, dx);
        return;
    }
    const Role bias = norm == Role::kNorm1 ? Role::kNorm1Bias : Role::kNorm2Bias;
    if (const TrainedWeight* trained = packs.trained(bias))
        b.gradient_of_bias(trained->tensor.offset, b.work.dh);
    packs.norm(norm).backward(backend_, config_, x, b.work.dh, dx, true);
}

/// b.work.dh = the derivative by h2 from that by the MLP's output.
void Decoder::mlp_backward(const BlockPacks& packs, Tape& tape, Tensor dy, Backward& b) {
    b.linears({{packs.at(Role::kDown), tape.activated, tape.mlp_out, dy}}, b.work.d_ffn);
    const bool in_place = b.work.d_up.empty();
    const Tensor d_gate = in_place ? tape.gate : b.work.d_gate;
    const Tensor d_up = in_place ? tape.up : b.work.d_up;
    backend_.activate_backward(config_.activation, tape.gate, tape.up, b.work.d_ffn, d_gate, d_up);
    if (config_.gated_mlp) {
        b.linears({{packs.at(Role::kGate), tape.h2, tape.gate, d_gate},
                   {packs.at(Role::kUp), tape.h2, tape.up, d_up}},
                  b.work.dh);
    } else {
        b.linears({{packs.at(Role::kUp), tape.h2, tape.up, d_up}}, b.work.dh);
    }
}

void Decoder::backward(std::int64_t layer, const BlockPacks& packs, const TokenContext& context,
                       Tensor x_in, Tape& tape, Tensor dx, const LayerGradient& gradient,
                       std::byte* scratch_memory) {
    const std::int64_t n = context.tokens;
    const AdapterDropout* dropout = context.dropout ? &*context.dropout : nullptr;
    Backward b{backend_, compute_, tape, gradient, context.slot_begin, dropout, {}};
    Scratch scratch(scratch_memory, backward_scratch_bytes(config_, tape.adapter, n, compute_));
    for_each_tensor(b.work, config_, tape.adapter, compute_,
                    [&](Tensor& tensor, DType dtype, std::int64_t cols) {
                        tensor = scratch.take(dtype, {n, cols});
                    });
    if (config_.experts > 0)
        b.work.experts.dots = b.work.experts.dots.reshaped({n * config_.experts_per_token, 1});
    // Derivative of a branch's linear output from that of the residual stream it was added to.
    auto through_branch = [&](Tensor kept, Role post_norm) {
        if (b.work.branch.empty()) return dx;
        backend_.copy(dx, b.work.branch);
        backend_.scale(b.work.branch, config_.residual_scale);
        if (config_.post_norms) {
            packs.norm(post_norm).backward(backend_, config_, kept, b.work.branch, b.work.branch,
                                           false);
        }
        return b.work.branch;
    };

    const Tensor d_mlp = through_branch(tape.mlp_out, Role::kPostFfnNorm);
    if (config_.layer[static_cast<std::size_t>(layer)].experts) {
        experts_backward(backend_, config_, packs, tape, d_mlp, b.work.experts, gradient,
                         context.slot_begin, b.work.dh);
    } else {
        mlp_backward(packs, tape, d_mlp, b);
    }
    through_norm(packs, Role::kNorm2, tape.x_mid, dx, b);

    const Tensor d_out = through_branch(tape.attention_out, Role::kPostAttentionNorm);
    b.linears({{packs.at(Role::kO), tape.attention, tape.attention_out, d_out}},
              b.work.d_attention);
    backend_.attention_backward(attention_shape(layer, context), tape.q, tape.k, tape.v,
                                tape.attention, tape.lse, b.work.d_attention, b.work.dq, b.work.dk,
                                b.work.dv);
    rotate(layer, context, b.work.dq, b.work.dk, true);
    if (config_.qk_norm) {
        auto through = [&](Tensor raw, Role role, Tensor grad) {
            const Tensor gain = packs.gain(role);
            const std::int64_t width = gain.count(), rows = raw.count() / width;
            const Tensor flat = grad.reshaped({rows, width});
            backend_.rms_norm_backward(raw.reshaped({rows, width}), gain, config_.norm_eps,
                                       config_.norm_offset, flat, flat, false);
        };
        through(tape.q_raw, Role::kQNorm, b.work.dq);
        through(tape.k_raw, Role::kKNorm, b.work.dk);
    }
    b.linears({{packs.at(Role::kQ), tape.h1, tape.q_raw, b.work.dq},
               {packs.at(Role::kK), tape.h1, tape.k_raw, b.work.dk},
               {packs.at(Role::kV), tape.h1, tape.v, b.work.dv}},
              b.work.dh);
    through_norm(packs, Role::kNorm1, x_in, dx, b);
}

}  // namespace qshard
