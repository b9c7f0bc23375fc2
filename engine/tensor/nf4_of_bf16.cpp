#include "tensor/nf4.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>

/// 4-bit codes of bf16 values without making floats of them. In the order of their values they are
/// 16-bit integers, of which a register holds twice as many; what takes the place of a threshold t
/// is the greatest bf16 value v of which the product v * (1 / absmax), rounded to float, is at most
/// t. It is found for each block and exact, so that codes are those of the floats.
namespace qshard {
namespace {

void quantize_as_floats(const FourBitCode& code, const bf16* x, std::int64_t count,
                        std::uint8_t* codes, float* absmax) {
    float values[kFourBitBlockWeights];
    for (std::int64_t at = 0; at < count; at += kFourBitBlockWeights) {
        const auto length = static_cast<std::size_t>(std::min(kFourBitBlockWeights, count - at));
        for (std::size_t i = 0; i < length; ++i)
            values[i] = to_float(x[static_cast<std::size_t>(at) + i]);
        quantize_four_bit(code, std::span(values, length), codes + at / 2,
                          absmax + at / kFourBitBlockWeights);
    }
}

#if defined(__x86_64__)
/// Blocks of which the largest magnitude is in [2^-100, 2^16) have thresholds that are found so:
/// nothing is subnormal, nor a product that ought to be above zero rounded to it. Weights are.
constexpr std::int32_t kLeastBits = (127 - 100) << 7, kBeyondBits = (127 + 16) << 7;

/// A search tree of the thresholds as the instructions that put them in order want them: `a` and
/// `b` are packed to 16 bits in turns of four, into the last level and the three before it.
struct PackedTree {
    float a[8], b[8];
    explicit PackedTree(const FourBitCode& code) {
        constexpr std::size_t kA[8] = {0, 2, 4, 6, 1, 5, 9, 13},
                              kB[8] = {8, 10, 12, 14, 3, 3, 11, 7};
        for (std::size_t i = 0; i < 8; ++i) {
            a[i] = code.thresholds[kA[i]];
            b[i] = code.thresholds[kB[i]];
        }
    }
};

/// Levels of the tree as tables of 16-bit entries, in both halves of a register.
struct Levels {
    __m256i root, second, third, last;
};

/// Of 8 thresholds: the greatest bf16 values that are not above them, as ordered integers.
__attribute__((target("avx2"))) inline __m256i greatest_below(__m256 thresholds, __m256 absmax,
                                                              __m256 scale) {
    // The bf16 value nearest to threshold * absmax: the roundings of the float products are too
    // small to matter for any other, so it or the one before it is the greatest.
    __m256i near = _mm256_castps_si256(_mm256_mul_ps(thresholds, absmax));
    near = _mm256_add_epi32(near, _mm256_set1_epi32(0x8000));
    near = _mm256_and_si256(near, _mm256_set1_epi32(-0x10000));
    const __m256 product = _mm256_mul_ps(_mm256_castsi256_ps(near), scale);
    const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(product, thresholds, _CMP_GT_OQ));
    const __m256i magnitude =
        _mm256_srli_epi32(_mm256_and_si256(near, _mm256_set1_epi32(0x7fffffff)), 16);
    return _mm256_add_epi32(_mm256_sign_epi32(magnitude, near), above);
}

__attribute__((target("avx2"))) inline Levels levels_of(__m256 a, __m256 b, float absmax) {
    const __m256 largest = _mm256_set1_ps(absmax), scale = _mm256_set1_ps(1.0f / absmax);
    const __m256i packed =
        _mm256_packs_epi32(greatest_below(a, largest, scale), greatest_below(b, largest, scale));
    const __m256i upper = _mm256_permute4x64_epi64(packed, 0xee);
    return {_mm256_shuffle_epi8(upper, _mm256_set1_epi16(0x0f0e)), _mm256_srli_si256(upper, 8),
            upper, _mm256_permute4x64_epi64(packed, 0x44)};
}

/// How many thresholds are below each of 16 values. `at` is where the next level's entry lies:
/// bytes 2i and 2i + 1 of its table.
__attribute__((target("avx2"))) inline __m256i ranks(__m256i values, const Levels& levels) {
    const __m256i bit = _mm256_set1_epi16(0x0202), high = _mm256_set1_epi16(0x0100);
    __m256i above = _mm256_cmpgt_epi16(values, levels.root);
    __m256i at = _mm256_or_si256(_mm256_and_si256(above, _mm256_add_epi16(bit, bit)), high);
    above = _mm256_cmpgt_epi16(values, _mm256_shuffle_epi8(levels.second, at));
    at = _mm256_or_si256(at, _mm256_and_si256(above, bit));
    above = _mm256_cmpgt_epi16(values, _mm256_shuffle_epi8(levels.third, at));
    at = _mm256_sub_epi16(_mm256_add_epi16(at, at), high);
    at = _mm256_or_si256(at, _mm256_and_si256(above, bit));
    above = _mm256_cmpgt_epi16(values, _mm256_shuffle_epi8(levels.last, at));
    return _mm256_and_si256(_mm256_sub_epi16(at, above), _mm256_set1_epi16(0x00ff));
}

__attribute__((target("avx2"))) void quantize_avx2(const FourBitCode& code, const bf16* x,
                                                   std::int64_t blocks, std::uint8_t* codes,
                                                   float* absmax) {
    const PackedTree tree(code);
    const __m256 a = _mm256_loadu_ps(tree.a), b = _mm256_loadu_ps(tree.b);
    const __m256i by_rank = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(code.by_rank.data())));
    const __m256i no_sign = _mm256_set1_epi16(0x7fff);
    for (std::int64_t block = 0; block < blocks; ++block, x += 64, codes += 32) {
        __m256i bits[4], magnitude[4];
        for (int i = 0; i < 4; ++i) {
            bits[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x) + i);
            magnitude[i] = _mm256_and_si256(bits[i], no_sign);
        }
        const __m256i top = _mm256_max_epi16(_mm256_max_epi16(magnitude[0], magnitude[1]),
                                             _mm256_max_epi16(magnitude[2], magnitude[3]));
        const __m128i half =
            _mm_max_epi16(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
        const int largest =
            0x7fff -
            (_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(0x7fff)))) &
             0xffff);
        if (largest < kLeastBits || largest >= kBeyondBits) {
            quantize_as_floats(code, x, kFourBitBlockWeights, codes, absmax + block);
            continue;
        }
        absmax[block] = to_float(bf16{static_cast<std::uint16_t>(largest)});
        const Levels levels = levels_of(a, b, absmax[block]);
        __m256i rank[4];
        for (int i = 0; i < 4; ++i)
            rank[i] = ranks(_mm256_sign_epi16(magnitude[i], bits[i]), levels);
        // To bytes, to codes, two codes to a byte; then the 4-byte groups in their order.
        const __m256i first = _mm256_shuffle_epi8(by_rank, _mm256_packus_epi16(rank[0], rank[1]));
        const __m256i second = _mm256_shuffle_epi8(by_rank, _mm256_packus_epi16(rank[2], rank[3]));
        const __m256i even_high = _mm256_set1_epi16(0x0110);
        const __m256i pairs = _mm256_packus_epi16(_mm256_maddubs_epi16(first, even_high),
                                                  _mm256_maddubs_epi16(second, even_high));
        _mm256_storeu_si256(
            reinterpret_cast<__m256i*>(codes),
            _mm256_permutevar8x32_epi32(pairs, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
}
#endif

}  // namespace

void quantize_four_bit(const FourBitCode& code, std::span<const bf16> x, std::uint8_t* codes,
                       float* absmax) {
    const auto count = static_cast<std::int64_t>(x.size());
    std::int64_t done = 0;
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2) {
        quantize_avx2(code, x.data(), count / kFourBitBlockWeights, codes, absmax);
        done = count - count % kFourBitBlockWeights;
    }
#endif
    quantize_as_floats(code, x.data() + done, count - done, codes + done / 2,
                       absmax + done / kFourBitBlockWeights);
}

}  // namespace qshard
