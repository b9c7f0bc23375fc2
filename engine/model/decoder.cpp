#include "model/decoder.h"

#include <algorithm>

#include "model/experts.h"

namespace qshard {

EmbeddingTables embedding_tables(const ModelConfig& config, const UnitLayout& unit,
                                 const std::byte* bytes, const Tensor& trained) {
    EmbeddingTables tables;
    tables.tokens = view_of(unit.at(Role::kEmbed), bytes).plain;
    const bool rounded = tables.tokens.dtype() == DType::kBF16;
    tables.scale = rounded ? to_float(to_bf16(config.embed_scale)) : config.embed_scale;
    if (!trained.empty()) tables.tokens = trained;
    const Field* positions = unit.find(Role::kPositions);
    if (positions != nullptr) tables.positions = view_of(*positions, bytes).plain;
    return tables;
}

void embed_tokens(Backend& backend, const EmbeddingTables& tables,
                  std::span<const std::int32_t> tokens, std::span<const std::int32_t> positions,
                  Tensor x, Tensor scratch) {
    backend.embed(tables.tokens, tokens, tables.scale, x);
    if (tables.positions.empty()) return;
    backend.embed(tables.positions, positions, 1.0f, scratch);
    backend.add(scratch, 1.0f, x);
}

void embed_tokens_backward(Backend& backend, const ModelConfig& config, float scale,
                           std::span<const std::int32_t> tokens, Tensor dx, Tensor dtable) {
    std::vector<std::int32_t> rows(tokens.begin(), tokens.end());
    if (config.pad_id && !config.learned_positions)
        std::replace(rows.begin(), rows.end(), *config.pad_id, -1);
    backend.fill_zero(dtable);
    backend.embed_backward(dx, rows, scale, dtable);
}

/// A linear and what it writes.
struct Decoder::Output {
    const LinearPack& pack;
    Tensor y;
};

/// y (+)= x W^T + bias + u (scale B)^T of each, at most three, with u = dropout(x) A^T.
void Decoder::linears(std::initializer_list<Output> outputs, const TokenContext& context, Tensor x,
                      Tape& tape, bool accumulate) {
    GemmTerm downs[3], terms[3][2];
    GemmCall calls[6];
    std::size_t index = 0, count = 0;
    for (const auto& [pack, y] : outputs) {
        if (context.dropout) down_project(pack, context, x, tape);
        if (pack.unscaled_forward.data != nullptr) {
            scaled_linear(pack, *context.dropout, x, tape, y, accumulate);
            continue;
        }
        const bool adapted = pack.target != nullptr;
        GemmTerm(&sum)[2] = terms[index];
        sum[0] = {x, pack.forward};
        if (adapted) sum[1] = {tape.u_of(*pack.target), pack.b_forward};
        // Else dropout or an earlier part of the same fused linear has made u.
        if (adapted && !context.dropout && pack.a_forward.data != nullptr) {
            downs[index] = {x, pack.a_forward};
            calls[count++] = {{&downs[index], 1}, Tensor(), sum[1].a};
        }
        calls[count++] = {{sum, adapted ? 2U : 1U}, pack.bias, y, accumulate};
        ++index;
    }
    if (count > 0) backend_.gemms({calls, count});
}

/// u = dropout(x) A^T, unless an earlier part of the same fused linear has made it.
void Decoder::down_project(const LinearPack& pack, const TokenContext& context, Tensor x,
                           Tape& tape) {
    if (pack.target == nullptr || pack.a_forward.data == nullptr) return;
    if (context.dropout) {
        const Tensor dropped = context.dropout->input(x);
        context.dropout->apply(backend_, *pack.target, context.slot_begin, x, false, dropped);
        x = dropped;
    }
    const GemmTerm term{x, pack.a_forward};
    backend_.gemm({&term, 1}, Tensor(), tape.u_of(*pack.target), false);
}

/// DoRA with dropout d = dropout(x), left by down_project(): what row factors scale,
/// d (factor W)^T + u (factor scale B)^T; kept for the magnitudes' derivatives.
Tensor Decoder::scaled_part(const LinearPack& pack, const AdapterDropout& dropout, Tensor x,
                            Tape& tape) {
    const Tensor sum = dropout.product(x.rows(), pack.forward.outer);
    const GemmTerm terms[] = {{dropout.input(x), pack.forward},
                              {tape.u_of(*pack.target), pack.b_forward}};
    backend_.gemm(terms, Tensor(), sum, false);
    backend_.copy(sum, tape.scaled[static_cast<std::size_t>(pack.role)]);
    return sum;
}

/// y (+)= (x - d) W^T + bias + scaled_part(). The base sees all of x, as in PEFT.
void Decoder::scaled_linear(const LinearPack& pack, const AdapterDropout& dropout, Tensor x,
                            Tape& tape, Tensor y, bool accumulate) {
    const Tensor sum = scaled_part(pack, dropout, x, tape);
    const Tensor rest = dropout.derivative(x.rows(), x.cols());
    backend_.copy(x, rest);
    backend_.add(dropout.input(x), -1.0f, rest);
    const GemmTerm term{rest, pack.unscaled_forward};
    backend_.gemm({&term, 1}, pack.bias, sum, true);
    if (accumulate) {
        backend_.add(sum, 1.0f, y);
    } else {
        backend_.copy(sum, y);
    }
}

/// x_out += residual_scale * post_norm(linear(x)); the plain case accumulates straight into the
/// residual stream.
void Decoder::residual(const LinearPack& pack, const TokenContext& context, Tensor x, Tape& tape,
                       Tensor kept, const Norm& post_norm, Tensor x_out) {
    if (kept.empty()) {
        linears({{pack, x_out}}, context, x, tape, true);
        return;
    }
    linears({{pack, kept}}, context, x, tape, false);
    add_branch(tape, kept, post_norm, x_out);
}

void Decoder::add_branch(Tape& tape, Tensor kept, const Norm& post_norm, Tensor x_out) {
    if (config_.post_norms) post_norm.forward(backend_, config_, kept, tape.branch);
    backend_.add(config_.post_norms ? tape.branch : kept, config_.residual_scale, x_out);
}

AttentionShape Decoder::attention_shape(std::int64_t layer, const TokenContext& context) const {
    AttentionShape shape;
    shape.heads = config_.heads;
    shape.kv_heads = config_.kv_heads;
    shape.head_width = config_.head_width;
    shape.scale = config_.attention_scale;
    shape.softcap = config_.attention_softcap;
    shape.window = config_.layer[static_cast<std::size_t>(layer)].window;
    shape.sequences = context.sequences;
    return shape;
}

void Decoder::rotate(std::int64_t layer, const TokenContext& context, Tensor q, Tensor k,
                     bool inverse) {
    const LayerConfig& settings = config_.layer[static_cast<std::size_t>(layer)];
    if (!settings.rope || config_.ropes.empty()) return;
    const RopeTensors& rope = rotary_.tables(settings.rope_index);
    const std::span<const std::int32_t> rows = Rotary::rows(context, settings.rope_index);
    const std::int64_t n = context.tokens, d = config_.head_width;
    backend_.rope(q.reshaped({n, config_.heads, d}), rows, rope.cos, rope.sin, inverse);
    backend_.rope(k.reshaped({n, config_.kv_heads, d}), rows, rope.cos, rope.sin, inverse);
}

/// h = norm(x), or x itself in models without norms before attention and MLP.
void Decoder::pre_norm(const Norm& norm, Tensor x, Tensor h) {
    if (config_.pre_norms) {
        norm.forward(backend_, config_, x, h);
    } else {
        backend_.copy(x, h);
    }
}

/// The norm of queries or keys: over each head, or over all of them at once.
void Decoder::qk_norm(const BlockPacks& packs, Role role, Tensor raw, Tensor y) {
    const Tensor gain = packs.gain(role);
    const std::int64_t width = gain.count(), rows = raw.count() / width;
    backend_.rms_norm(raw.reshaped({rows, width}), gain, config_.norm_eps, config_.norm_offset,
                      y.reshaped({rows, width}));
}

/// x_out = x_mid + the branch of a mixture of experts.
void Decoder::experts(const BlockPacks& packs, Tape& tape, Tensor x_out) {
    if (x_out.empty()) {
        experts_forward(backend_, config_, packs, tape, Tensor());
        return;
    }
    backend_.copy(tape.x_mid, x_out);
    if (tape.mlp_out.empty()) {
        experts_forward(backend_, config_, packs, tape, x_out);
        return;
    }
    backend_.fill_zero(tape.mlp_out);
    experts_forward(backend_, config_, packs, tape, tape.mlp_out);
    add_branch(tape, tape.mlp_out, packs.norm(Role::kPostFfnNorm), x_out);
}

void Decoder::forward(std::int64_t layer, const BlockPacks& packs, const TokenContext& context,
                      Tensor x_in, Tensor x_out, Tape& tape, const KvCache* cache) {
    pre_norm(packs.norm(Role::kNorm1), x_in, tape.h1);
    const bool raw = !tape.q_raw.empty();
    Tensor q = raw ? tape.q_raw : tape.q, k = raw ? tape.k_raw : tape.k;
    linears({{packs.at(Role::kQ), q}, {packs.at(Role::kK), k}, {packs.at(Role::kV), tape.v}},
            context, tape.h1, tape, false);
    if (config_.qk_norm) {
        qk_norm(packs, Role::kQNorm, q, tape.q);
        qk_norm(packs, Role::kKNorm, k, tape.k);
    } else if (raw) {
        backend_.copy(q, tape.q);
        backend_.copy(k, tape.k);
    }
    rotate(layer, context, tape.q, tape.k, false);
    Tensor keys = tape.k, values = tape.v;
    if (cache != nullptr) {
        for (const AttentionSequence& s : context.sequences) {
            const std::int64_t at = s.k_begin + s.k_count - s.q_count;
            backend_.copy(tape.k.row_range(s.q_begin, s.q_count),
                          cache->k.row_range(at, s.q_count));
            backend_.copy(tape.v.row_range(s.q_begin, s.q_count),
                          cache->v.row_range(at, s.q_count));
        }
        keys = cache->k;
        values = cache->v;
    }
    backend_.attention(attention_shape(layer, context), tape.q, keys, values, tape.attention,
                       tape.lse);
    backend_.copy(x_in, tape.x_mid);
    residual(packs.at(Role::kO), context, tape.attention, tape, tape.attention_out,
             packs.norm(Role::kPostAttentionNorm), tape.x_mid);

    pre_norm(packs.norm(Role::kNorm2), tape.x_mid, tape.h2);
    if (config_.layer[static_cast<std::size_t>(layer)].experts) {
        experts(packs, tape, x_out);
        return;
    }
    const Output up{packs.at(Role::kUp), tape.up};
    if (config_.gated_mlp) {
        linears({{packs.at(Role::kGate), tape.gate}, up}, context, tape.h2, tape, false);
    } else {
        linears({up}, context, tape.h2, tape, false);
    }
    backend_.activate(config_.activation, tape.gate, tape.up, tape.activated);
    const LinearPack& down = packs.at(Role::kDown);
    if (x_out.empty()) {
        const bool output_is_read = config_.post_norms || tape.adapter.outputs;
        if (output_is_read && !tape.mlp_out.empty()) {
            linears({{down, tape.mlp_out}}, context, tape.activated, tape, false);
        } else {
            down_project(down, context, tape.activated, tape);
            if (down.unscaled_forward.data != nullptr)
                scaled_part(down, *context.dropout, tape.activated, tape);
        }
        return;
    }
    backend_.copy(tape.x_mid, x_out);
    residual(down, context, tape.activated, tape, tape.mlp_out, packs.norm(Role::kPostFfnNorm),
             x_out);
}

}  // namespace qshard
