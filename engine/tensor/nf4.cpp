#include "tensor/nf4.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace qshard {

namespace {

constexpr float kTiniestScale = 1e-38f;  ///< absmax below it scales as this: no division by zero

/// Entries 128..254; 0..126 are their negatives mirrored, 127 is 0 and 255 is 1.
constexpr std::uint32_t kPositive[127] = {
    0x3513a3b7, 0x365a1a94, 0x370205ff, 0x37b24206, 0x38378034, 0x388aefb3, 0x38ba1f4b, 0x3923d70b,
    0x398ce705, 0x39c7e283, 0x3a016f01, 0x3a1eecc1, 0x3a3c6a80, 0x3a59e83e, 0x3a7765ff, 0x3aa7ef9d,
    0x3af1a9fc, 0x3b1db22d, 0x3b428f5c, 0x3b676c8a, 0x3b8624dd, 0x3b989374, 0x3bab020d, 0x3bbd70a4,
    0x3bcfdf3b, 0x3be24dd3, 0x3bf4bc6a, 0x3c039581, 0x3c0ccccd, 0x3c160418, 0x3c1f3b64, 0x3c3ae148,
    0x3c68f5c3, 0x3c8b851f, 0x3ca28f5d, 0x3cb9999a, 0x3cd0a3d7, 0x3ce7ae15, 0x3cfeb852, 0x3d0ae148,
    0x3d166667, 0x3d21eb85, 0x3d2d70a3, 0x3d38f5c3, 0x3d447ae1, 0x3d500000, 0x3d5b851f, 0x3d670a3d,
    0x3d728f5d, 0x3d7e147b, 0x3d84cccd, 0x3d8a8f5d, 0x3d9051eb, 0x3d96147b, 0x3d9bd70a, 0x3da1999a,
    0x3da75c2a, 0x3dad1eb8, 0x3db2e148, 0x3db8a3d7, 0x3dbe6667, 0x3dc428f7, 0x3dc9eb85, 0x3ddb3334,
    0x3df80000, 0x3e0a6666, 0x3e18cccd, 0x3e273333, 0x3e35999a, 0x3e440000, 0x3e526666, 0x3e60cccd,
    0x3e6f3333, 0x3e7d9999, 0x3e860000, 0x3e8d3334, 0x3e946666, 0x3e9b999a, 0x3ea2cccc, 0x3eaa0000,
    0x3eb13333, 0x3eb86666, 0x3ebf999a, 0x3ec6cccc, 0x3ece0000, 0x3ed53333, 0x3edc6666, 0x3ee3999a,
    0x3eeacccc, 0x3ef20000, 0x3ef93332, 0x3f003333, 0x3f03cccc, 0x3f076666, 0x3f0b0000, 0x3f0e999a,
    0x3f123334, 0x3f15cccd, 0x3f196666, 0x3f1d0000, 0x3f20999a, 0x3f243334, 0x3f27cccd, 0x3f2b6666,
    0x3f2f0000, 0x3f32999a, 0x3f363334, 0x3f39cccd, 0x3f3d6666, 0x3f410000, 0x3f44999a, 0x3f483333,
    0x3f4bcccd, 0x3f4f6666, 0x3f530000, 0x3f56999a, 0x3f5a3333, 0x3f5dcccd, 0x3f616666, 0x3f650000,
    0x3f68999a, 0x3f6c3333, 0x3f6fcccd, 0x3f736666, 0x3f770000, 0x3f7a999a, 0x3f7e3333,
};

void quantize_blocks_baseline(const FourBitCode& code, const float* x, std::int64_t blocks,
                              std::uint8_t* codes, float* absmax) {
    for (std::int64_t b = 0; b < blocks; ++b, x += kFourBitBlockWeights) {
        float largest = 0;
        for (int i = 0; i < kFourBitBlockWeights; ++i) largest = std::max(largest, std::fabs(x[i]));
        absmax[b] = largest;
        const float scale = 1.0f / std::max(largest, kTiniestScale);
        auto code_of = [&](int i) {
            std::size_t rank = 0;
            for (std::size_t t = 0; t < 15; ++t) rank += x[i] * scale > code.thresholds[t];
            return code.by_rank[rank];
        };
        for (int i = 0; i < kFourBitBlockWeights; i += 2) {
            *codes++ = static_cast<std::uint8_t>(code_of(i) << 4 | code_of(i + 1));
        }
    }
}

#if defined(__x86_64__)
/// Thresholds as a search tree, one level a register: 4 comparisons instead of 15.
struct Tree {
    float root, second[8], third[8], last[8];
    explicit Tree(const FourBitCode& code) : root(code.thresholds[7]) {
        for (std::size_t i = 0; i < 8; ++i) {
            second[i] = code.thresholds[3 + 8 * (i % 2)];
            third[i] = code.thresholds[1 + 4 * (i % 4)];
            last[i] = code.thresholds[2 * i];
        }
    }
};

__attribute__((target("avx2"))) void quantize_blocks_avx2(const FourBitCode& rule, const float* x,
                                                          std::int64_t blocks, std::uint8_t* codes,
                                                          float* absmax) {
    const Tree tree(rule);
    const __m256 root = _mm256_set1_ps(tree.root), second = _mm256_loadu_ps(tree.second);
    const __m256 third = _mm256_loadu_ps(tree.third), last = _mm256_loadu_ps(tree.last);
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256i by_rank = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(rule.by_rank.data())));
    // Bytes of two 64-bit words, alternately.
    const __m256i interleave = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    for (std::int64_t b = 0; b < blocks; ++b, x += 64, codes += 32) {
        __m256 top = _mm256_setzero_ps();
        for (int i = 0; i < 64; i += 8) {
            top = _mm256_max_ps(top, _mm256_and_ps(_mm256_loadu_ps(x + i), magnitude));
        }
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        half = _mm_max_ss(half, _mm_movehdup_ps(half));
        absmax[b] = _mm_cvtss_f32(half);
        const __m256 scale = _mm256_set1_ps(1.0f / std::max(absmax[b], kTiniestScale));
        __m256i bytes = _mm256_setzero_si256();  // byte j of word i: elements 8j + 2i, 8j + 2i + 1
        for (int j = 0; j < 8; ++j) {
            const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * j), scale);
            auto above = [&](__m256 threshold) __attribute__((target("avx2"))) {
                return _mm256_castps_si256(_mm256_cmp_ps(v, threshold, _CMP_GT_OQ));
            };
            __m256i rank = _mm256_abs_epi32(above(root));
            rank = _mm256_sub_epi32(_mm256_add_epi32(rank, rank),
                                    above(_mm256_permutevar8x32_ps(second, rank)));
            rank = _mm256_sub_epi32(_mm256_add_epi32(rank, rank),
                                    above(_mm256_permutevar8x32_ps(third, rank)));
            rank = _mm256_sub_epi32(_mm256_add_epi32(rank, rank),
                                    above(_mm256_permutevar8x32_ps(last, rank)));
            const __m256i code = _mm256_shuffle_epi8(by_rank, rank);
            __m256i pair = _mm256_or_si256(_mm256_slli_epi64(code, 4), _mm256_srli_epi64(code, 32));
            pair = _mm256_and_si256(pair, _mm256_set1_epi64x(0xff));
            bytes = _mm256_or_si256(bytes, _mm256_slli_epi64(pair, 8 * j));
        }
        bytes = _mm256_shuffle_epi8(bytes, interleave);
        const __m128i low = _mm256_castsi256_si128(bytes),
                      high = _mm256_extracti128_si256(bytes, 1);
        auto* out = reinterpret_cast<__m128i*>(codes);
        _mm_storeu_si128(out, _mm_unpacklo_epi16(low, high));
        _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low, high));
    }
}
#endif

using QuantizeBlocks = void (*)(const FourBitCode&, const float*, std::int64_t, std::uint8_t*,
                                float*);

QuantizeBlocks best_quantize_blocks() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return quantize_blocks_avx2;
#endif
    return quantize_blocks_baseline;
}

constexpr std::array<float, 256> make_dynamic_map() {
    std::array<float, 256> values{};
    for (std::size_t k = 0; k < 127; ++k) {
        values[128 + k] = std::bit_cast<float>(kPositive[k]);
        values[126 - k] = -values[128 + k];
    }
    values[255] = 1.0f;
    return values;
}

}  // namespace

constinit const std::array<float, 256> kDynamicMap = make_dynamic_map();

namespace {

/// Nearest entry of the map by a binary search, then one look at a neighbour; ties keep the pivot
/// (the CUDA kernel's rule). Never falls as x grows.
std::size_t nearest_entry(float x) {
    std::size_t pivot = 127, lower = 0, upper = 255;
    for (std::size_t step = 64; step > 0; step >>= 1) {
        if (x > kDynamicMap[pivot]) {
            lower = pivot;
            pivot += step;
        } else {
            upper = pivot;
            pivot -= step;
        }
    }
    const float value = kDynamicMap[pivot];
    const bool above = x > value;
    if (above && x > (kDynamicMap[upper] + value) * 0.5f) pivot = upper;
    if (!above && x < (kDynamicMap[lower] + value) * 0.5f) pivot = lower;
    return pivot;
}

/// The greatest value with nearest_entry() of at most `code`.
float last_value_of(std::size_t code) {
    // Floats in their order are the integers that their magnitudes' bits are, with the sign.
    auto value_of = [](std::int64_t rank) {
        const auto magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(std::abs(rank)));
        return rank < 0 ? -magnitude : magnitude;
    };
    constexpr std::int64_t kTwo = std::bit_cast<std::uint32_t>(2.0f);
    std::int64_t low = -kTwo, high = kTwo;
    while (high - low > 1) {
        const std::int64_t middle = (low + high) / 2;
        (nearest_entry(value_of(middle)) <= code ? low : high) = middle;
    }
    return value_of(low);
}

/// nearest_entry() by a table over a float's sign, exponent and first six bits of the mantissa: at
/// those, the code of the least value; at most one code ends before the greatest. NaN gives 0.
class NearestCode {
  public:
    NearestCode() {
        for (std::size_t code = 0; code < 255; ++code) last_[code] = last_value_of(code);
        last_[255] = std::numeric_limits<float>::infinity();
        for (std::uint32_t leading = 0; leading < least_.size(); ++leading) {
            const std::uint32_t first = leading << kRest;
            const bool negative = first >> 31 != 0;
            const auto least = std::bit_cast<float>(negative ? first | ((1u << kRest) - 1) : first);
            if (!std::isnan(least))
                least_[leading] = static_cast<std::uint8_t>(nearest_entry(least));
        }
    }
    std::uint8_t operator()(float x) const {
        const std::uint8_t code = least_[std::bit_cast<std::uint32_t>(x) >> kRest];
        return static_cast<std::uint8_t>(code + (x > last_[code]));
    }

  private:
    static constexpr int kRest = 17;  ///< bits of a float that the table does not see

    std::array<float, 256> last_;
    std::array<std::uint8_t, std::size_t{1} << (32 - kRest)> least_{};
};

/// Largest distance from `mean`; NaN is passed over. Eight at once, in any order the same.
float largest_distance(std::span<const float> values, float mean) {
    std::array<float, 8> largest{};
    std::size_t i = 0;
    const auto add = [&](float& most, float value) {
        most = std::max(most, std::fabs(value - mean));
    };
    for (; i + largest.size() <= values.size(); i += largest.size()) {
        for (std::size_t k = 0; k < largest.size(); ++k) add(largest[k], values[i + k]);
    }
    for (; i < values.size(); ++i) add(largest[0], values[i]);
    return *std::max_element(largest.begin(), largest.end());
}

}  // namespace

void quantize_four_bit(const FourBitCode& code, std::span<const float> x, std::uint8_t* codes,
                       float* absmax) {
    static const QuantizeBlocks quantize = best_quantize_blocks();
    const auto count = static_cast<std::int64_t>(x.size());
    const std::int64_t full = count / kFourBitBlockWeights;
    const std::int64_t rest = count - full * kFourBitBlockWeights;
    quantize(code, x.data(), full, codes, absmax);
    if (rest == 0) return;
    float padded[kFourBitBlockWeights] = {};
    std::uint8_t padded_codes[kFourBitBlockWeights / 2];
    std::copy_n(x.data() + full * kFourBitBlockWeights, rest, padded);
    quantize(code, padded, 1, padded_codes, absmax + full);
    std::copy_n(padded_codes, (rest + 1) / 2, codes + full * kFourBitBlockWeights / 2);
}

void dequantize_four_bit(const FourBitCode& code, const std::uint8_t* codes, const float* absmax,
                         std::int64_t first, std::span<float> out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::int64_t element = first + static_cast<std::int64_t>(i);
        const std::uint8_t byte = codes[element / 2];
        out[i] = code.table[element % 2 == 0 ? byte >> 4 : byte & 15] *
                 absmax[element / kFourBitBlockWeights];
    }
}

float mean_absmax(std::span<const float> absmax) {
    double sum = 0;
    for (float value : absmax) sum += value;
    return static_cast<float>(absmax.empty() ? 0.0 : sum / static_cast<double>(absmax.size()));
}

void double_quantize(std::span<const float> absmax, float mean, std::uint8_t* q, float* absmax2) {
    static const NearestCode nearest_code;
    for (std::size_t begin = 0; begin < absmax.size(); begin += kNestedBlockValues) {
        const auto block = absmax.subspan(begin).first(
            std::min<std::size_t>(kNestedBlockValues, absmax.size() - begin));
        const float largest = largest_distance(block, mean);
        absmax2[begin / kNestedBlockValues] = largest;
        const float scale = 1.0f / largest;
        for (float value : block) *q++ = nearest_code((value - mean) * scale);
    }
}

void reconstruct_absmax(std::span<const std::uint8_t> q, const float* absmax2, float offset,
                        float* absmax) {
    for (std::size_t i = 0; i < q.size(); ++i) {
        absmax[i] = kDynamicMap[q[i]] * absmax2[i / kNestedBlockValues] + offset;
    }
}

}  // namespace qshard
