#pragma once

#include "backend/cpu/simd.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"

/// Stored weights to fp32.
namespace qshard::cpu {
namespace {

inline float absmax_of(const WeightView& w, std::int64_t block) {
    if (!w.double_quant) return w.absmax[block];
    return kDynamicMap.data()[w.absmax_codes[block]] * w.absmax2[block / kNestedBlock] +
           *w.absmax_offset;
}

inline const float* table_of(const WeightView& w) {
    return w.storage == Storage::kFp4 ? kFp4Table.data() : kNf4Table.data();
}

inline float four_bit_value(const WeightView& w, std::int64_t i, float absmax) {
    const std::uint8_t pair = w.codes[i / 2];
    return table_of(w)[i % 2 == 0 ? pair >> 4 : pair & 15] * absmax;
}

/// Elements [first, first + count) of one block, first a multiple of 8, count too.
inline void expand_eights(const WeightView& w, std::int64_t first, std::int64_t count, float absmax,
                          float* out) {
    std::int64_t i = 0;
#if QSHARD_LANES == 16 && defined(__AVX512F__)
    const Vf table = load(table_of(w));
    for (; i + kLanes <= count; i += kLanes) {
        const void* bytes = w.codes + (first + i) / 2;
        const __m128i pairs =
            _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(bytes)));
        // One code a byte, in its low half; the permutation does not look at the other.
        const __m128i codes = _mm_or_si128(_mm_srli_epi16(pairs, 4), _mm_slli_epi16(pairs, 8));
        const __m512i index = _mm512_maskz_cvtepu8_epi32(0xffff, codes);
        store(out + i, _mm512_maskz_permutexvar_ps(0xffff, index, table) * absmax);
    }
#endif
#if defined(__AVX2__)
    const __m256 low = _mm256_loadu_ps(table_of(w));
    const __m256 high = _mm256_loadu_ps(table_of(w) + 8);
    const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    const __m256 factor = _mm256_set1_ps(absmax);
    for (; i < count; i += 8) {
        std::uint32_t word;
        __builtin_memcpy(&word, w.codes + (first + i) / 2, 4);
        const __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word)), shifts);
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
        const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                              _mm256_permutevar8x32_ps(high, code), upper);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(value, factor));
    }
#else
    for (; i < count; ++i) out[i] = four_bit_value(w, first + i, absmax);
#endif
}

inline void expand_four_bit(const WeightView& w, std::int64_t first, std::int64_t count,
                            float* out) {
    const std::int64_t end = first + count;
    for (std::int64_t i = first; i < end;) {
        const std::int64_t block = i / kFourBitBlock;
        const std::int64_t block_end = (block + 1) * kFourBitBlock;
        const std::int64_t stop = block_end < end ? block_end : end;
        const float absmax = absmax_of(w, block);
        for (; i < stop && i % 8 != 0; ++i) *out++ = four_bit_value(w, i, absmax);
        const std::int64_t eights = (stop - i) / 8 * 8;
        if (eights > 0) {
            expand_eights(w, i, eights, absmax, out);
            i += eights;
            out += eights;
        }
        for (; i < stop; ++i) *out++ = four_bit_value(w, i, absmax);
    }
}

inline void expand_int8(const WeightView& w, std::int64_t first, std::int64_t count, float* out) {
    const auto* codes = reinterpret_cast<const std::int8_t*>(w.codes);
    const std::int64_t end = first + count;
    for (std::int64_t i = first; i < end;) {
        const std::int64_t row = i / w.cols, row_end = (row + 1) * w.cols;
        const std::int64_t stop = row_end < end ? row_end : end;
        const float absmax = w.absmax[row];
        for (; i < stop; ++i) out[i - first] = static_cast<float>(codes[i]) * absmax * kInt8Step;
    }
}

inline void expand_weight(const WeightView& w, std::int64_t first, std::int64_t count, float* out) {
    if (is_four_bit(w.storage)) return expand_four_bit(w, w.first + first, count, out);
    if (w.storage == Storage::kInt8) return expand_int8(w, w.first + first, count, out);
    const Vf factor = splat(w.scale);
    auto scaled = [&](auto* in) {
        for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
            store(out + i, load(in + first + i, left) * factor, left);
        });
    };
    if (w.plain.dtype() == DType::kBF16) {
        scaled(static_cast<const bf16*>(w.plain.data()));
    } else {
        scaled(static_cast<const float*>(w.plain.data()));
    }
}

template <bool kBias, bool kAccumulate, class T>
QSHARD_INLINE void store_rows(const float* tile, std::int64_t nr, std::int64_t rows,
                              std::int64_t cols, const float* bias, T* out, std::int64_t stride) {
    for (std::int64_t i = 0; i < rows; ++i, tile += nr, out += stride) {
        for_vectors(cols, [&](std::int64_t j, auto left) QSHARD_INLINE_LAMBDA {
            Vf sum = load(tile + j);
            if constexpr (kBias) sum += load(bias + j, left);
            if constexpr (kAccumulate) sum = load(out + j, left) + sum;
            store(out + j, sum, left);
        });
    }
}

inline void store_tile_any(const float* tile, std::int64_t nr, std::int64_t rows, std::int64_t cols,
                           const float* bias, Out c, std::int64_t stride, bool accumulate) {
    typed(c, [&](auto* out) {
        if (bias != nullptr && accumulate)
            return store_rows<true, true>(tile, nr, rows, cols, bias, out, stride);
        if (bias != nullptr)
            return store_rows<true, false>(tile, nr, rows, cols, bias, out, stride);
        if (accumulate) return store_rows<false, true>(tile, nr, rows, cols, bias, out, stride);
        store_rows<false, false>(tile, nr, rows, cols, bias, out, stride);
    });
}

}  // namespace
}  // namespace qshard::cpu
