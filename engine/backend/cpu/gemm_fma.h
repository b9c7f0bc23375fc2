#pragma once

#include "backend/cpu/transpose.h"

/// Multiply-add kernels: strips are fp32 [k][mr]; panels are fp32 [k][nr], or bf16 with column j
/// and column j + lanes in the halves of one 32-bit word, so that a shift and a mask widen them.
namespace qshard::cpu {
namespace {

#if QSHARD_LANES == 16
constexpr int kFmaRows = 12;
#else
constexpr int kFmaRows = 6;
#endif
constexpr int kFmaCols = 2 * kLanes;

template <int kRows, bool kBf16>
void fma_tile(const GemmPart* parts, int count, float* c, bool first) {
    Vf sum[kRows][2];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
        sum[i][0] = first ? Vf{} : load(c + i * kFmaCols);
        sum[i][1] = first ? Vf{} : load(c + i * kFmaCols + kLanes);
    }
    for (const GemmPart* part = parts; part != parts + count; ++part) {
        const auto* a = static_cast<const float*>(part->strip);
        const char* b = static_cast<const char*>(part->panel);
        const std::int64_t k = part->k;
#pragma GCC unroll 4
        for (std::int64_t j = 0; j < k; ++j) {
            Vf b0, b1;
            if constexpr (kBf16) {
                Vu pairs;
                __builtin_memcpy(&pairs, b, sizeof pairs);
                b0 = reinterpret_cast<Vf>(pairs << 16);
                b1 = reinterpret_cast<Vf>(pairs & 0xffff0000u);
                b += sizeof pairs;
            } else {
                b0 = load(reinterpret_cast<const float*>(b));
                b1 = load(reinterpret_cast<const float*>(b) + kLanes);
                b += 2 * sizeof(Vf);
            }
#pragma GCC unroll 16
            for (int i = 0; i < kRows; ++i) {
                const Vf x = splat(a[i]);
                sum[i][0] = fma(x, b0, sum[i][0]);
                sum[i][1] = fma(x, b1, sum[i][1]);
            }
            a += kFmaRows;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
        store(c + i * kFmaCols, sum[i][0]);
        store(c + i * kFmaCols + kLanes, sum[i][1]);
    }
}

/// Fewer rows than a strip has run the same chains with fewer registers: the bits are the same.
template <bool kBf16>
void fma_tile_any(const GemmPart* parts, int count, int rows, float* c, bool first) {
    if (rows == 1) return fma_tile<1, kBf16>(parts, count, c, first);
    if (rows == 2) return fma_tile<2, kBf16>(parts, count, c, first);
    if (rows <= 4) return fma_tile<4, kBf16>(parts, count, c, first);
    if constexpr (kFmaRows == 12) {
        if (rows <= 8) return fma_tile<8, kBf16>(parts, count, c, first);
    }
    fma_tile<kFmaRows, kBf16>(parts, count, c, first);
}

template <bool kBf16>
void fma_pack_a(In a, std::int64_t stride, std::int64_t rows, std::int64_t k, void* strip) {
    auto* out = static_cast<float*>(strip);
    typed(a, [&](auto* in) { transpose_strip<kFmaRows, kBf16>(in, stride, rows, k, out); });
}

template <bool kBf16>
void fma_pack_a_transposed(In a, std::int64_t stride, std::int64_t rows, std::int64_t k,
                           void* strip) {
    auto* out = static_cast<float*>(strip);
    typed(a, [&](auto* in) {
        for (std::int64_t j = 0; j < k; ++j, in += stride, out += kFmaRows) {
            if (rows == kFmaRows) {
                for (int i = 0; i < kFmaRows; ++i) out[i] = operand<kBf16>(in[i]);
                continue;
            }
            for (int i = 0; i < kFmaRows; ++i) out[i] = i < rows ? operand<kBf16>(in[i]) : 0.0f;
        }
    });
}

/// One line of a panel from its columns' values.
template <bool kBf16>
QSHARD_INLINE void emit_line(Vf low, Vf high, char* panel) {
    if constexpr (kBf16) {
        const Vu pairs = pair_words(low, high);
        __builtin_memcpy(panel, &pairs, sizeof pairs);
    } else {
        store(reinterpret_cast<float*>(panel), low);
        store(reinterpret_cast<float*>(panel) + kLanes, high);
    }
}

/// The same from its columns in memory.
template <bool kBf16>
QSHARD_INLINE void emit_line(const float* in, char* panel) {
    emit_line<kBf16>(load(in), load(in + kLanes), panel);
}
template <bool kBf16>
QSHARD_INLINE void emit_line(const bf16* in, char* panel) {
    if constexpr (kBf16) {
        const Vu pairs = pair_words(in, in + kLanes);
        __builtin_memcpy(panel, &pairs, sizeof pairs);
    } else {
        emit_line<kBf16>(load(in), load(in + kLanes), panel);
    }
}

template <bool kBf16>
void fma_pack_b(In b, std::int64_t stride, std::int64_t k, std::int64_t cols, void* panel) {
    constexpr std::int64_t kLine = kFmaCols * (kBf16 ? 2 : 4);
    constexpr std::int64_t kAhead = 16;  // no processor sees so long a stride coming
    auto* out = static_cast<char*>(panel);
    typed(b, [&](auto* in) {
        for (std::int64_t j = 0; j < k; ++j, in += stride, out += kLine) {
            if (j + kAhead < k) __builtin_prefetch(in + kAhead * stride);
            if (cols == kFmaCols) {
                emit_line<kBf16>(in, out);
            } else {
                emit_line<kBf16>(load(in, cols), load(in + kLanes, cols - kLanes), out);
            }
        }
    });
}

template <bool kBf16>
void fma_pack_b_transposed(In b, std::int64_t stride, std::int64_t k, std::int64_t cols,
                           void* panel) {
    if constexpr (!kBf16) {
        typed(b, [&](auto* in) {
            transpose_strip<kFmaCols, false>(in, stride, cols, k, static_cast<float*>(panel));
        });
        return;
    }
    constexpr std::int64_t kLines = 64;
    float lines[kLines * kFmaCols];
    auto* out = static_cast<char*>(panel);
    typed(b, [&](auto* in) {
        for (std::int64_t j = 0; j < k; j += kLines, in += kLines) {
            const std::int64_t count = k - j < kLines ? k - j : kLines;
            transpose_strip<kFmaCols, false>(in, stride, cols, count, lines);
            for (std::int64_t i = 0; i < count; ++i, out += kFmaCols * 2) {
                emit_line<kBf16>(lines + i * kFmaCols, out);
            }
        }
    });
}

template <bool kBf16>
constexpr GemmKernel fma_gemm() {
    return {kFmaRows,
            kFmaCols,
            1,
            4,
            kBf16 ? 2 : 4,
            !kBf16,
            fma_pack_a<kBf16>,
            fma_pack_a_transposed<kBf16>,
            fma_pack_b<kBf16>,
            fma_pack_b_transposed<kBf16>,
            fma_tile_any<kBf16>};
}

}  // namespace
}  // namespace qshard::cpu
