#pragma once

#include "backend/cpu/attention.h"

/// Backward of attention: for every block of queries and every block of keys, scores and
/// probabilities again from the saved log-sum-exp, then
///   dv += p^T dout,  ds = p * (dout v^T - delta) * slope * scale,  dk += ds^T q,  dq += ds k.
/// dk and dv sum over blocks of queries in order, and inside one over its columns in order.
namespace qshard::cpu {
namespace {

/// lse and delta = sum_d dout * out of the block's columns.
inline void load_statistics(AttentionTask& t) {
    for (std::int64_t c = 0; c < t.panels * t.g.nr; ++c) {
        t.s.top[c] = t.s.sum[c] = 0;
        if (c >= t.columns) continue;
        t.s.top[c] = t.call.lse[t.query_row(c) * t.call.heads + t.head(c)];
        DoubleSum delta;
        typed(t.call.dout, [&](auto* dout) {
            typed(In{t.call.out.data, t.call.out.is_bf16}, [&](auto* out) {
                dout += t.query_at(c);
                out += t.query_at(c);
                for (std::int64_t d = 0; d < t.width; d += kLanes) {
                    delta.add_product(load(dout + d, t.width - d), load(out + d, t.width - d));
                }
            });
        });
        t.s.sum[c] = static_cast<float>(delta.total());
    }
}

/// scores -> p and dp -> ds for the lanes at `c`.
QSHARD_INLINE void differentiate(const AttentionTask& t, std::int64_t j0, std::int64_t keys,
                                 float* score, float* grad, std::int64_t c) {
    const AttentionCall& call = t.call;
    const Vf position = load(t.s.position + c);
    const Vf lse = load(t.s.top + c), delta = load(t.s.sum + c);
    for (std::int64_t j = 0; j < keys; ++j) {
        Vf slope = splat(1.0f);
        const Vf x = cap_score(load(score + j * t.g.nr) * call.scale, call.softcap, slope);
        const Vf p =
            masked(exponential(x - lse), position, static_cast<float>(j0 + j), call.window, Vf{});
        store(score + j * t.g.nr, p);
        const Vf ds = p * (load(grad + j * t.g.nr) - delta) * slope * call.scale;
        store(grad + j * t.g.nr, ds);
    }
}

/// Appends the `seen` rows of x[keys][nr] as inner elements [at, at + nr) of the strips of keys;
/// rows beyond are zero.
inline void append_strips(const AttentionTask& t, const float* x, std::int64_t seen,
                          std::int64_t keys, std::int64_t at, std::byte* strips) {
    const std::int64_t inner = t.panels * t.g.nr;
    for (std::int64_t j = 0; j < keys; j += t.g.mr) {
        const std::int64_t left = seen - j;
        const std::int64_t rows = left < 0 ? 0 : (left < t.g.mr ? left : t.g.mr);
        std::byte* strip = t.strip_at(strips, j, inner) + at * t.g.mr * t.g.a_bytes;
        if (rows == 0) {
            __builtin_memset(strip, 0, static_cast<std::size_t>(t.g.nr * t.g.mr * t.g.a_bytes));
        } else {
            t.g.pack_a({x + j * t.g.nr, false}, t.g.nr, rows, t.g.nr, strip);
        }
    }
}

/// gradient[j0 + j][d] += strips * panels, through tiles.
inline void accumulate_keys(const AttentionTask& t, const std::byte* strips,
                            const std::byte* panels, std::int64_t j0, std::int64_t keys,
                            float* tiles, float* gradient) {
    const GemmKernel& g = t.g;
    const std::int64_t inner = t.panels * g.nr;
    for (std::int64_t d = 0; d < t.width; d += g.nr) {
        const std::int64_t cols = t.width - d < g.nr ? t.width - d : g.nr;
        for (std::int64_t j = 0; j < keys; j += g.mr) {
            const std::int64_t rows = keys - j < g.mr ? keys - j : g.mr;
            for (std::int64_t i = 0; i < rows; ++i) {
                const float* in = gradient + t.key_at(j0 + j + i) + d;
                for_vectors(cols, [&](std::int64_t x, auto left) QSHARD_INLINE_LAMBDA {
                    store(tiles + i * g.nr + x, load(in + x, left));
                });
            }
            for (std::int64_t i = j + g.mr; i < keys && i < j + 2 * g.mr; ++i)
                __builtin_prefetch(gradient + t.key_at(j0 + i) + d, 1);
            const GemmPart part{strips + j * inner * g.a_bytes, panels + d * inner * g.b_bytes,
                                inner};
            g.tile(&part, 1, static_cast<int>(rows), tiles, false);
            for (std::int64_t i = 0; i < rows; ++i) {
                float* out = gradient + t.key_at(j0 + j + i) + d;
                for_vectors(cols, [&](std::int64_t x, auto left) QSHARD_INLINE_LAMBDA {
                    store(out + x, load(tiles + i * g.nr + x), left);
                });
            }
        }
    }
}

inline void backward_block(AttentionTask& t, std::int64_t j0, std::int64_t keys) {
    const GemmKernel& g = t.g;
    AttentionScratch& s = t.s;
    t.pack_keys(t.call.k, j0, keys, s.key_strips);
    t.pack_keys(t.call.v, j0, keys, s.value_strips);
    t.pack_keys_transposed(t.call.k, j0, keys, s.key_columns);
    const std::int64_t inner = round_up(t.width, g.k_step);
    bool any = false;
    for (std::int64_t p = 0; p < t.panels; ++p) {
        const std::int64_t seen = t.visible(p, j0, keys);
        any = any || seen > 0;
        if (seen > 0) {
            t.multiply_keys(s.key_strips, seen, t.panel_at(s.q_panels, p, inner), s.score);
            t.multiply_keys(s.value_strips, seen, t.panel_at(s.dout_panels, p, inner),
                            s.grad_score);
            for (std::int64_t lane = 0; lane < g.nr; lane += kLanes) {
                differentiate(t, j0, seen, s.score + lane, s.grad_score + lane, p * g.nr + lane);
            }
            t.accumulate(s.key_columns, keys, s.grad_score, seen, s.result + p * g.nr * s.width_up);
        }
        append_strips(t, s.score, seen, keys, p * g.nr, s.p_strips);
        append_strips(t, s.grad_score, seen, keys, p * g.nr, s.ds_strips);
    }
    if (!any) return;
    accumulate_keys(t, s.p_strips, s.dout_rows_panels, j0, keys, s.tile, t.call.dv);
    accumulate_keys(t, s.ds_strips, s.q_rows_panels, j0, keys, s.tile, t.call.dk);
}

/// Panels of the block's rows: inner dimension the columns.
inline void pack_rows(const AttentionTask& t, In rows, std::byte* panels) {
    const std::int64_t inner = t.panels * t.g.nr;
    for (std::int64_t d = 0; d < t.width; d += t.g.nr) {
        t.g.pack_b({at(rows, d), rows.is_bf16}, t.width, t.columns,
                   t.width - d < t.g.nr ? t.width - d : t.g.nr, panels + d * inner * t.g.b_bytes);
    }
}

inline void backward_queries(AttentionTask& t) {
    AttentionScratch& s = t.s;
    const In q = t.gather(t.call.q, s.q_rows);
    const In dout = t.gather(t.call.dout, s.dout_rows);
    t.pack_columns(q, s.q_panels);
    t.pack_columns(dout, s.dout_panels);
    // The inner dimension is padded to whole panels; what lies beyond the columns must be zero.
    const std::int64_t inner = t.panels * t.g.nr;
    const std::int64_t panel_bytes = round_up(t.width, t.g.nr) * inner * t.g.b_bytes;
    __builtin_memset(s.q_rows_panels, 0, static_cast<std::size_t>(panel_bytes));
    __builtin_memset(s.dout_rows_panels, 0, static_cast<std::size_t>(panel_bytes));
    pack_rows(t, q, s.q_rows_panels);
    pack_rows(t, dout, s.dout_rows_panels);
    load_statistics(t);
    __builtin_memset(s.result, 0,
                     static_cast<std::size_t>(t.panels * t.g.nr * s.width_up) * sizeof(float));
    for (std::int64_t j0 = t.first_key(); j0 < t.key_end(); j0 += kKeyBlock) {
        const std::int64_t left = t.key_end() - j0;
        backward_block(t, j0, left < kKeyBlock ? left : kKeyBlock);
    }
    for (std::int64_t p = 0; p < t.panels; ++p) {
        t.transpose_result(s.result + p * t.g.nr * s.width_up);
        for (std::int64_t i = 0; i < t.columns_of(p); ++i) {
            __builtin_memcpy(t.call.dq + t.query_at(p * t.g.nr + i), s.lines + i * t.width,
                             static_cast<std::size_t>(t.width) * sizeof(float));
        }
    }
}

inline void attention_backward(const GemmKernel& g, const AttentionCall& call,
                               const AttentionSequence& sequence, std::int64_t kv_head,
                               std::byte* base) {
    AttentionScratch scratch(g, call.width, base);
    AttentionTask t(g, call, sequence, kv_head, scratch);
    for (std::int64_t j = 0; j < sequence.k_count; ++j) {
        const std::size_t bytes = static_cast<std::size_t>(call.width) * sizeof(float);
        __builtin_memset(call.dk + t.key_at(j), 0, bytes);
        __builtin_memset(call.dv + t.key_at(j), 0, bytes);
    }
    const std::int64_t block = kQueryColumns / t.group;
    for (std::int64_t first = 0; first < sequence.q_count; first += block) {
        const std::int64_t left = sequence.q_count - first;
        t.set_queries(first, left < block ? left : block);
        backward_queries(t);
    }
}

}  // namespace
}  // namespace qshard::cpu
