#pragma once

#include "backend/cpu/simd.h"

/// Transposition of small blocks of fp32 or bf16 into fp32, rounded to bf16 on the way or not.
namespace qshard::cpu {
namespace {

template <bool kRound>
QSHARD_INLINE float operand(float x) {
    return kRound ? to_float(to_bf16(x)) : x;
}
template <bool kRound>
QSHARD_INLINE float operand(bf16 x) {
    return to_float(x);
}

#if defined(__AVX2__)
template <bool kRound>
QSHARD_INLINE __m256 load8(const float* p) {
    const __m256 x = _mm256_loadu_ps(p);
    if constexpr (!kRound) return x;
    return reinterpret_cast<__m256>(round_bf16(x));
}
template <bool kRound>
QSHARD_INLINE __m256 load8(const bf16* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/// out[j * out_stride + i] = in[i * in_stride + j] for i, j < 8; zero where i >= rows.
template <bool kRound, class T>
QSHARD_INLINE void transpose8(const T* in, std::int64_t in_stride, std::int64_t rows, float* out,
                              std::int64_t out_stride) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; ++i) {
        r[i] = i < rows ? load8<kRound>(in + i * in_stride) : _mm256_setzero_ps();
    }
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        const int b = 4 * i;
        r[b] = _mm256_shuffle_ps(t[b], t[b + 2], 0x44);
        r[b + 1] = _mm256_shuffle_ps(t[b], t[b + 2], 0xee);
        r[b + 2] = _mm256_shuffle_ps(t[b + 1], t[b + 3], 0x44);
        r[b + 3] = _mm256_shuffle_ps(t[b + 1], t[b + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
        _mm256_storeu_ps(out + j * out_stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
    }
    for (int j = 0; j < 4; ++j) {
        _mm256_storeu_ps(out + (4 + j) * out_stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
    }
}
#endif

/// out[j * kWidth + i] = in[i * in_stride + j] for i < kWidth, j < k; zero where i >= rows. Writes
/// nothing else. Floats that are not rounded are copied as 32-bit words, whatever they are.
template <int kWidth, bool kRound, class T>
void transpose_strip(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t k,
                     float* out) {
    std::int64_t j = 0;
#if defined(__AVX2__)
    // A line of 8 may spill over into the next line of kWidth. Going down in i and up in j, what
    // was spilled over is written afterwards; the last lines go through a buffer.
    constexpr std::int64_t kLast = (kWidth - 1) / 8 * 8;
    for (; j + 8 <= k; j += 8) {
        float buffer[8 * kWidth + 8];
        const bool last = j + 16 > k;
        float* lines = last ? buffer : out + j * kWidth;
        for (std::int64_t i = kLast; i >= 0; i -= 8) {
            const std::int64_t left = rows - i;
            const T* from = in + i * in_stride + j;
            if (left >= 8) {
                transpose8<kRound>(from, in_stride, 8, lines + i, kWidth);
            } else if (i == kLast && left == kWidth - kLast) {
                transpose8<kRound>(from, in_stride, kWidth - kLast, lines + i, kWidth);
            } else {
                transpose8<kRound>(from, in_stride, left, lines + i, kWidth);
            }
        }
        if (last) __builtin_memcpy(out + j * kWidth, buffer, 8 * kWidth * sizeof(float));
    }
#endif
    for (; j < k; ++j) {
        for (std::int64_t i = 0; i < kWidth; ++i) {
            T element = {};
            if (i < rows) __builtin_memcpy(&element, in + i * in_stride + j, sizeof element);
            out[j * kWidth + i] = operand<kRound>(element);
        }
    }
}

}  // namespace
}  // namespace qshard::cpu
