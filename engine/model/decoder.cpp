#include "model/decoder.h"

namespace qshard {

void require_supported(const ModelConfig& config) {
    std::string missing;
    if (config.norm == NormKind::kLayer) missing = "LayerNorm";
    if (config.learned_positions)
        missing += missing.empty() ? "learned positions" : " and learned positions";
    if (!missing.empty()) {
        throw UserError(
            fmt::format("models of the family \"{}\" need {}, which is not supported yet",
                        config.family, missing));
    }
}

void embed_tokens(Backend& backend, const ModelConfig& config, Tensor table,
                  std::span<const std::int32_t> tokens, Tensor x) {
    const bool rounded = table.dtype() == DType::kBF16;
    const float scale = rounded ? to_float(to_bf16(config.embed_scale)) : config.embed_scale;
    backend.embed(table, tokens, scale, x);
}

TokenContext TokenContext::documents(std::span<const std::int32_t> document_begin) {
    TokenContext context;
    context.tokens = document_begin.empty() ? 0 : document_begin.back();
    context.positions.resize(static_cast<std::size_t>(context.tokens));
    for (std::size_t s = 0; s + 1 < document_begin.size(); ++s) {
        const std::int32_t begin = document_begin[s], end = document_begin[s + 1];
        for (std::int32_t n = begin; n < end; ++n)
            context.positions[static_cast<std::size_t>(n)] = n - begin;
        context.sequences.push_back({begin, end - begin, begin, end - begin});
    }
    return context;
}

/// y (+)= x W^T + bias + u (scale B)^T, with u = x A^T.
void Decoder::linear(const LinearPack& pack, Tensor x, Tensor u, Tensor y, bool accumulate) {
    if (pack.target == nullptr) {
        const GemmTerm term{x, pack.forward};
        backend_.gemm({&term, 1}, pack.bias, y, accumulate);
        return;
    }
    const GemmTerm down{x, pack.a_forward};
    backend_.gemm({&down, 1}, Tensor(), u, false);
    const GemmTerm terms[] = {{x, pack.forward}, {u, pack.b_forward}};
    backend_.gemm(terms, pack.bias, y, accumulate);
}

/// x_out += residual_scale * post_norm(linear(x)); the plain case accumulates straight into the
/// residual stream.
void Decoder::residual(const LinearPack& pack, Tensor x, Tensor u, Tensor kept, Tensor branch,
                       Tensor post_norm, Tensor x_out) {
    if (kept.empty()) {
        linear(pack, x, u, x_out, true);
        return;
    }
    linear(pack, x, u, kept, false);
    if (config_.sandwich_norms) {
        backend_.rms_norm(kept, post_norm, config_.norm_eps, config_.norm_offset, branch);
    }
    backend_.add(config_.sandwich_norms ? branch : kept, config_.residual_scale, x_out);
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
    if (!settings.rope || ropes_.empty()) return;
    const RopeTensors& rope = ropes_[static_cast<std::size_t>(settings.rope_index)];
    const std::int64_t n = context.tokens, d = config_.head_width;
    backend_.rope(q.reshaped({n, config_.heads, d}), context.positions, rope.cos, rope.sin,
                  inverse);
    backend_.rope(k.reshaped({n, config_.kv_heads, d}), context.positions, rope.cos, rope.sin,
                  inverse);
}

void Decoder::forward(std::int64_t layer, const BlockPacks& packs, const TokenContext& context,
                      Tensor x_in, Tensor x_out, Tape& tape, const KvCache* cache) {
    const std::int64_t n = context.tokens, d = config_.head_width;
    const float eps = config_.norm_eps;
    const bool offset = config_.norm_offset;
    auto u = [&](Role role) { return tape.u[static_cast<std::size_t>(role)]; };

    backend_.rms_norm(x_in, packs.gain(Role::kNorm1), eps, offset, tape.h1);
    Tensor q = config_.qk_norm ? tape.q_raw : tape.q, k = config_.qk_norm ? tape.k_raw : tape.k;
    linear(packs.at(Role::kQ), tape.h1, u(Role::kQ), q, false);
    linear(packs.at(Role::kK), tape.h1, u(Role::kK), k, false);
    linear(packs.at(Role::kV), tape.h1, u(Role::kV), tape.v, false);
    if (config_.qk_norm) {
        backend_.rms_norm(q.reshaped({n * config_.heads, d}), packs.gain(Role::kQNorm), eps, offset,
                          tape.q);
        backend_.rms_norm(k.reshaped({n * config_.kv_heads, d}), packs.gain(Role::kKNorm), eps,
                          offset, tape.k);
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
    residual(packs.at(Role::kO), tape.attention, u(Role::kO), tape.attention_out, tape.branch,
             packs.gain(Role::kPostAttentionNorm), tape.x_mid);

    backend_.rms_norm(tape.x_mid, packs.gain(Role::kNorm2), eps, offset, tape.h2);
    if (config_.gated_mlp) linear(packs.at(Role::kGate), tape.h2, u(Role::kGate), tape.gate, false);
    linear(packs.at(Role::kUp), tape.h2, u(Role::kUp), tape.up, false);
    backend_.activate(config_.activation, tape.gate, tape.up, tape.activated);
    if (x_out.empty()) {
        const LinearPack& down = packs.at(Role::kDown);
        if (down.target == nullptr) return;
        const GemmTerm term{tape.activated, down.a_forward};
        backend_.gemm({&term, 1}, Tensor(), u(Role::kDown), false);
        return;
    }
    backend_.copy(tape.x_mid, x_out);
    residual(packs.at(Role::kDown), tape.activated, u(Role::kDown), tape.mlp_out, tape.branch,
             packs.gain(Role::kPostFfnNorm), x_out);
}

}  // namespace qshard
