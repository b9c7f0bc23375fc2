#pragma once

#include "backend/cpu/transpose.h"

/// Attention in blocks (Dao, "FlashAttention-2", 2023), transposed: a lane is a query, so that the
/// softmax runs down the lanes and the scores of a panel of queries are, as they come out of one
/// product, a panel of the next.
///
/// Columns are the queries of a block times the heads of a group: column c is head c / count, query
/// c % count. Keys are taken in blocks that start at multiples of kKeyBlock from the sequence's
/// first key, whatever the queries: a query's chain of sums depends on its own keys only, because a
/// masked key contributes an exact zero.
namespace qshard::cpu {
namespace {

/// Hands out aligned pieces of a task's scratch; with no base it only counts.
struct Bump {
    std::byte* base = nullptr;
    std::size_t used = 0;

    template <class T>
    T* take(std::int64_t count) {
        const std::size_t at = used;
        used += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return base == nullptr ? nullptr : reinterpret_cast<T*>(base + at);
    }
};

/// Buffers of a task; the last group is for the backward only.
struct AttentionScratch {
    std::int64_t width_up;        ///< head width up to a strip
    float *q_rows, *dout_rows;    ///< [columns][width]
    float *position, *top, *sum;  ///< per column; backward: top = lse, sum = delta
    std::byte *q_panels, *key_strips, *value_strips, *panel;
    float *score, *grad_score;  ///< [kKeyBlock][nr]
    float* result;              ///< forward out^T, backward dq^T: [panels][width_up][nr]
    float* lines;               ///< one panel's result, transposed
    std::byte *dout_panels, *q_rows_panels, *dout_rows_panels, *key_columns, *p_strips, *ds_strips;
    float* tile;  ///< [mr][nr]
    std::size_t bytes;

    AttentionScratch(const GemmKernel& g, std::int64_t width, std::byte* base) {
        Bump bump{base};
        width_up = round_up(width, g.mr);
        const std::int64_t columns = round_up(kQueryColumns, g.nr);
        const std::int64_t inner = round_up(width, g.k_step);
        const std::int64_t key_inner = round_up(kKeyBlock, g.k_step);
        const std::int64_t width_panels = divide_up(width, g.nr) * g.nr;
        auto bytes_of_strips = [&](std::int64_t rows, std::int64_t k) {
            return bump.take<std::byte>(rows * k * g.a_bytes + 64);
        };
        auto bytes_of_panels = [&](std::int64_t cols, std::int64_t k) {
            return bump.take<std::byte>(cols * k * g.b_bytes + 64);
        };
        q_rows = bump.take<float>(columns * width);
        dout_rows = bump.take<float>(columns * width);
        position = bump.take<float>(columns);
        top = bump.take<float>(columns);
        sum = bump.take<float>(columns);
        q_panels = bytes_of_panels(columns, inner);
        key_strips = bytes_of_strips(kKeyBlock, inner);
        // Forward: strips of v^T; backward: strips of v.
        const std::int64_t forward = width_up * key_inner, backward = kKeyBlock * inner;
        value_strips = bytes_of_strips(1, forward > backward ? forward : backward);
        panel = bytes_of_panels(g.nr, key_inner);
        score = bump.take<float>(kKeyBlock * g.nr);
        grad_score = bump.take<float>(kKeyBlock * g.nr);
        result = bump.take<float>(columns * width_up);
        lines = bump.take<float>(g.nr * width_up);
        dout_panels = bytes_of_panels(columns, inner);
        q_rows_panels = bytes_of_panels(width_panels, columns);
        dout_rows_panels = bytes_of_panels(width_panels, columns);
        key_columns = bytes_of_strips(width_up, key_inner);
        p_strips = bytes_of_strips(kKeyBlock, columns);
        ds_strips = bytes_of_strips(kKeyBlock, columns);
        tile = bump.take<float>(g.mr * g.nr);
        bytes = bump.used;
    }
};

inline std::size_t attention_scratch_bytes(const GemmKernel& g, std::int64_t width) {
    return AttentionScratch(g, width, nullptr).bytes;
}

inline const std::byte* at(In x, std::int64_t element) {
    return static_cast<const std::byte*>(x.data) + element * (x.is_bf16 ? 2 : 4);
}

/// The task's constants, and the block of queries at hand.
struct AttentionTask {
    const GemmKernel& g;
    const AttentionCall& call;
    const AttentionSequence& sequence;
    std::int64_t kv_head;
    AttentionScratch& s;
    std::int64_t group, width, q_stride, k_stride;
    std::int64_t first = 0, count = 0, columns = 0, panels = 0;

    AttentionTask(const GemmKernel& gemm, const AttentionCall& c, const AttentionSequence& seq,
                  std::int64_t head, AttentionScratch& scratch)
        : g(gemm), call(c), sequence(seq), kv_head(head), s(scratch) {
        group = c.heads / c.kv_heads;
        width = c.width;
        q_stride = c.heads * c.width;
        k_stride = c.kv_heads * c.width;
    }

    std::int64_t offset() const { return sequence.k_count - sequence.q_count; }
    std::int64_t query_row(std::int64_t c) const { return sequence.q_begin + first + c % count; }
    std::int64_t head(std::int64_t c) const { return kv_head * group + c / count; }
    /// First element of column c in a [Nq, heads, width] tensor.
    std::int64_t query_at(std::int64_t c) const {
        return query_row(c) * q_stride + head(c) * width;
    }
    std::int64_t key_at(std::int64_t j) const {
        return (sequence.k_begin + j) * k_stride + kv_head * width;
    }

    void set_queries(std::int64_t first_query, std::int64_t query_count) {
        first = first_query;
        count = query_count;
        columns = group * count;
        panels = divide_up(columns, g.nr);
        for (std::int64_t c = 0; c < panels * g.nr; ++c) {
            s.position[c] = c < columns ? static_cast<float>(offset() + first + c % count) : -1.0f;
        }
    }

    /// The block's rows of a query-shaped tensor, one after the other.
    In gather(In x, float* rows) const {
        const std::int64_t bytes = x.is_bf16 ? 2 : 4;
        for (std::int64_t c = 0; c < columns; ++c) {
            __builtin_memcpy(reinterpret_cast<std::byte*>(rows) + c * width * bytes,
                             at(x, query_at(c)), static_cast<std::size_t>(width * bytes));
        }
        return {rows, x.is_bf16};
    }

    std::int64_t columns_of(std::int64_t p) const {
        return columns - p * g.nr < g.nr ? columns - p * g.nr : g.nr;
    }
    std::byte* panel_at(std::byte* panels_begin, std::int64_t p, std::int64_t inner) const {
        return panels_begin + p * g.nr * inner * g.b_bytes;
    }
    std::byte* strip_at(std::byte* strips, std::int64_t row, std::int64_t inner) const {
        return strips + row * inner * g.a_bytes;
    }

    /// Panels of x^T: inner dimension the head's width.
    void pack_columns(In rows, std::byte* out) const {
        const std::int64_t inner = round_up(width, g.k_step);
        for (std::int64_t p = 0; p < panels; ++p) {
            g.pack_b_transposed({at(rows, p * g.nr * width), rows.is_bf16}, width, width,
                                columns_of(p), panel_at(out, p, inner));
        }
    }
    /// Strips of keys [j0, j0 + count): inner dimension the head's width.
    void pack_keys(In x, std::int64_t j0, std::int64_t keys, std::byte* strips) const {
        const std::int64_t inner = round_up(width, g.k_step);
        for (std::int64_t j = 0; j < keys; j += g.mr) {
            g.pack_a({at(x, key_at(j0 + j)), x.is_bf16}, k_stride,
                     keys - j < g.mr ? keys - j : g.mr, width, strip_at(strips, j, inner));
        }
    }
    /// Strips of x^T: rows are the head's dimensions, inner dimension the keys.
    void pack_keys_transposed(In x, std::int64_t j0, std::int64_t keys, std::byte* strips) const {
        const std::int64_t inner = round_up(keys, g.k_step);
        for (std::int64_t d = 0; d < width; d += g.mr) {
            g.pack_a_transposed({at(x, key_at(j0) + d), x.is_bf16}, k_stride,
                                width - d < g.mr ? width - d : g.mr, keys,
                                strip_at(strips, d, inner));
        }
    }

    /// Keys of the block from j0 that any query of panel p sees: [0, result).
    std::int64_t visible(std::int64_t p, std::int64_t j0, std::int64_t keys) const {
        float low = 3e38f, high = -1.0f;
        for (std::int64_t c = p * g.nr; c < p * g.nr + columns_of(p); ++c) {
            low = s.position[c] < low ? s.position[c] : low;
            high = s.position[c] > high ? s.position[c] : high;
        }
        const auto last = static_cast<std::int64_t>(high);
        const auto window_begin = static_cast<std::int64_t>(low) - call.window + 1;
        if (call.window > 0 && window_begin >= j0 + keys) return 0;
        const std::int64_t seen = last - j0 + 1;
        return seen < 0 ? 0 : (seen < keys ? seen : keys);
    }
    std::int64_t first_key() const {
        const std::int64_t begin = call.window > 0 ? offset() + first - call.window + 1 : 0;
        return begin <= 0 ? 0 : begin / kKeyBlock * kKeyBlock;
    }
    std::int64_t key_end() const { return offset() + first + count; }

    /// c[keys][nr] = keys * panel
    void multiply_keys(const std::byte* strips, std::int64_t keys, const std::byte* columns_panel,
                       float* c) const {
        const std::int64_t inner = round_up(width, g.k_step);
        for (std::int64_t j = 0; j < keys; j += g.mr) {
            const std::int64_t rows = keys - j < g.mr ? keys - j : g.mr;
            const GemmPart part{strips + j * inner * g.a_bytes, columns_panel, inner};
            g.tile(&part, 1, static_cast<int>(rows), c + j * g.nr, true);
        }
    }
    /// result^T[width][nr] += strips of x^T (packed for `keys` keys) * the first `used` rows of p.
    void accumulate(const std::byte* strips, std::int64_t keys, float* p, std::int64_t used,
                    float* out) const {
        const std::int64_t inner = round_up(keys, g.k_step);
        const void* rows = p;
        if (!g.panel_is_rows) {
            g.pack_b({p, false}, g.nr, used, g.nr, s.panel);
            rows = s.panel;
        }
        for (std::int64_t d = 0; d < width; d += g.mr) {
            const std::int64_t count_d = width - d < g.mr ? width - d : g.mr;
            const GemmPart part{strips + d * inner * g.a_bytes, rows, round_up(used, g.k_step)};
            g.tile(&part, 1, static_cast<int>(count_d), out + d * g.nr, false);
        }
    }
    /// The panel's result as rows of `width`: lines[c][d] = result[d][c].
    void transpose_result(const float* result) const {
        for (std::int64_t d0 = 0; d0 < width; d0 += 8) {
            for (std::int64_t c = 0; c < g.nr; ++c) {
                const std::int64_t end = width - d0 < 8 ? width : d0 + 8;
                for (std::int64_t d = d0; d < end; ++d)
                    s.lines[c * width + d] = result[d * g.nr + c];
            }
        }
    }
};

/// scale * q.k, soft-capped; slope becomes d score / d (scale q.k).
QSHARD_INLINE Vf cap_score(Vf score, float softcap, Vf& slope) {
    if (softcap == 0) return score;
    const Vf t = hyperbolic_tangent(score / softcap);
    slope = 1.0f - t * t;
    return softcap * t;
}
/// `score` where the query at `position` sees key j, else `otherwise`.
QSHARD_INLINE Vf masked(Vf score, Vf position, float j, std::int64_t window, Vf otherwise) {
    score = position >= j ? score : otherwise;
    if (window == 0) return score;
    return position - static_cast<float>(window) < j ? score : otherwise;
}

/// Softmax of one block of scores for the lanes at `c`: scores become probabilities relative to the
/// running maximum; top and sum are updated; returns the factor of what was summed before.
QSHARD_INLINE Vf soften(const AttentionTask& t, std::int64_t j0, std::int64_t keys, float* score,
                        std::int64_t c) {
    const AttentionCall& call = t.call;
    const Vf infinity = splat(__builtin_inff());
    const Vf position = load(t.s.position + c);
    const Vf old_top = load(t.s.top + c);
    Vf top = old_top, slope{};
    for (std::int64_t j = 0; j < keys; ++j) {
        Vf x = cap_score(load(score + j * t.g.nr) * call.scale, call.softcap, slope);
        x = masked(x, position, static_cast<float>(j0 + j), call.window, -infinity);
        store(score + j * t.g.nr, x);
        top = maximum(x, top);
    }
    const Vf finite_top = top == -infinity ? Vf{} : top;
    const Vf factor = exponential(old_top - finite_top);
    Vf sum = load(t.s.sum + c) * factor;
    for (std::int64_t j = 0; j < keys; ++j) {
        const Vf p = exponential(load(score + j * t.g.nr) - finite_top);
        store(score + j * t.g.nr, p);
        sum += p;
    }
    store(t.s.top + c, top);
    store(t.s.sum + c, sum);
    return factor;
}

inline void forward_block(AttentionTask& t, std::int64_t j0, std::int64_t keys) {
    const GemmKernel& g = t.g;
    t.pack_keys(t.call.k, j0, keys, t.s.key_strips);
    t.pack_keys_transposed(t.call.v, j0, keys, t.s.value_strips);
    const std::int64_t inner = round_up(t.width, g.k_step);
    for (std::int64_t p = 0; p < t.panels; ++p) {
        const std::int64_t seen = t.visible(p, j0, keys);
        if (seen == 0) continue;
        float* result = t.s.result + p * g.nr * t.s.width_up;
        t.multiply_keys(t.s.key_strips, seen, t.panel_at(t.s.q_panels, p, inner), t.s.score);
        for (std::int64_t lane = 0; lane < g.nr; lane += kLanes) {
            const Vf factor = soften(t, j0, seen, t.s.score + lane, p * g.nr + lane);
            for (std::int64_t d = 0; d < t.width; ++d) {
                float* line = result + d * g.nr + lane;
                store(line, load(line) * factor);
            }
        }
        t.accumulate(t.s.value_strips, keys, t.s.score, seen, result);
    }
}

inline void write_forward(const AttentionTask& t) {
    for (std::int64_t p = 0; p < t.panels; ++p) {
        t.transpose_result(t.s.result + p * t.g.nr * t.s.width_up);
        for (std::int64_t i = 0; i < t.columns_of(p); ++i) {
            const std::int64_t c = p * t.g.nr + i;
            const Vf sum = splat(t.s.sum[c]);
            const float* line = t.s.lines + i * t.width;
            typed(t.call.out, [&](auto* out) {
                out += t.query_at(c);
                for (std::int64_t d = 0; d < t.width; d += kLanes) {
                    store(out + d, load(line + d, t.width - d) / sum, t.width - d);
                }
            });
            if (t.call.lse != nullptr) {
                t.call.lse[t.query_row(c) * t.call.heads + t.head(c)] =
                    t.s.top[c] + __builtin_logf(t.s.sum[c]);
            }
        }
    }
}

inline void attention_forward(const GemmKernel& g, const AttentionCall& call,
                              const AttentionSequence& sequence, std::int64_t kv_head,
                              std::int64_t first, std::int64_t count, std::byte* base) {
    AttentionScratch scratch(g, call.width, base);
    AttentionTask t(g, call, sequence, kv_head, scratch);
    t.set_queries(first, count);
    t.pack_columns(t.gather(call.q, scratch.q_rows), scratch.q_panels);
    for (std::int64_t c = 0; c < t.panels * g.nr; ++c) {
        scratch.top[c] = -__builtin_inff();
        scratch.sum[c] = 0;
    }
    __builtin_memset(scratch.result, 0,
                     static_cast<std::size_t>(t.panels * g.nr * scratch.width_up) * sizeof(float));
    for (std::int64_t j0 = t.first_key(); j0 < t.key_end(); j0 += kKeyBlock) {
        const std::int64_t left = t.key_end() - j0;
        forward_block(t, j0, left < kKeyBlock ? left : kKeyBlock);
    }
    write_forward(t);
}

}  // namespace
}  // namespace qshard::cpu
