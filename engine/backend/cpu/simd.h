#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "backend/cpu/kernels.h"
#include "base/dtype.h"

/// Vectors of QSHARD_LANES floats and the functions over them, for whatever instruction set the
/// including file is compiled with. Everything is internal to that file.
#ifndef QSHARD_LANES
#if defined(__AVX512F__)
#define QSHARD_LANES 16
#elif defined(__AVX2__)
#define QSHARD_LANES 8
#else
#define QSHARD_LANES 4
#endif
#endif

namespace qshard::cpu {
namespace {

constexpr int kLanes = QSHARD_LANES;
typedef float Vf __attribute__((vector_size(4 * QSHARD_LANES)));
typedef std::uint32_t Vu __attribute__((vector_size(4 * QSHARD_LANES)));
typedef std::uint16_t Vh __attribute__((vector_size(2 * QSHARD_LANES)));
typedef float VfHalf __attribute__((vector_size(2 * QSHARD_LANES)));
typedef double Vd __attribute__((vector_size(4 * QSHARD_LANES)));

#define QSHARD_INLINE [[gnu::always_inline]] inline
#define QSHARD_INLINE_LAMBDA __attribute__((always_inline))

QSHARD_INLINE Vf splat(float x) {
    return x - Vf{};
}
QSHARD_INLINE Vf load(const float* p) {
    Vf v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
/// bf16 in the low halves of the lanes.
QSHARD_INLINE Vu load_halves(const bf16* p) {
#if defined(__AVX2__) && QSHARD_LANES == 8  // GCC 12 makes four instructions of the conversion
    return reinterpret_cast<Vu>(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    Vh h;
    __builtin_memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, Vu);
#endif
}
QSHARD_INLINE Vf load(const bf16* p) {
    return reinterpret_cast<Vf>(load_halves(p) << 16);
}
QSHARD_INLINE void store(float* p, Vf v) {
    __builtin_memcpy(p, &v, sizeof v);
}
/// Rounds to nearest even, in the high half of each lane; the low half is zero. NaN stays NaN.
template <class Floats>
QSHARD_INLINE auto round_bf16(Floats v) {
    typedef std::uint32_t Words __attribute__((vector_size(sizeof(Floats))));
    const Words u = reinterpret_cast<Words>(v);
    const Words rounded = u + (0x7fffu + ((u >> 16) & 1u));
    return (v != v ? u | 0x400000u : rounded) & 0xffff0000u;
}
QSHARD_INLINE void store(bf16* p, Vf v) {
    const Vu words = round_bf16(v) >> 16;
#if defined(__AVX2__) && QSHARD_LANES == 8
    const auto both = reinterpret_cast<__m256i>(words);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
#else
    const Vh h = __builtin_convertvector(words, Vh);
    __builtin_memcpy(p, &h, sizeof h);
#endif
}

/// Words of bf16, low in the low half: of floats, rounded, or of a vector's lanes in memory.
QSHARD_INLINE Vu pair_words(Vf low, Vf high) {
    return (round_bf16(low) >> 16) | round_bf16(high);
}
QSHARD_INLINE Vu pair_words(const float* low, const float* high) {
    return pair_words(load(low), load(high));
}
QSHARD_INLINE Vu pair_words(const bf16* low, const bf16* high) {
    return load_halves(low) | load_halves(high) << 16;
}

/// The first n lanes; the others are zero (load) or not written (store). Lanes beyond them are not
/// touched in memory.
#if defined(__AVX512BW__) && defined(__AVX512VL__) && QSHARD_LANES == 16
QSHARD_INLINE __mmask16 first_lanes(std::int64_t n) {
    return static_cast<__mmask16>(n <= 0 ? 0u : (1u << n) - 1u);
}
QSHARD_INLINE Vf load(const float* p, std::int64_t n) {
    return n >= kLanes ? load(p) : reinterpret_cast<Vf>(_mm512_maskz_loadu_ps(first_lanes(n), p));
}
QSHARD_INLINE Vf load(const bf16* p, std::int64_t n) {
    if (n >= kLanes) return load(p);
    const __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(n), p);
    return reinterpret_cast<Vf>(__builtin_convertvector(reinterpret_cast<Vh>(halves), Vu) << 16);
}
QSHARD_INLINE void store(float* p, Vf v, std::int64_t n) {
    if (n >= kLanes) return store(p, v);
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
QSHARD_INLINE void store(bf16* p, Vf v, std::int64_t n) {
    if (n >= kLanes) return store(p, v);
    const Vh halves = __builtin_convertvector(round_bf16(v) >> 16, Vh);
    _mm256_mask_storeu_epi16(p, first_lanes(n), reinterpret_cast<__m256i>(halves));
}
#else
template <class T>
QSHARD_INLINE Vf load(const T* p, std::int64_t n) {
    if (n >= kLanes) return load(p);
    float lanes[kLanes] = {};
    for (std::int64_t i = 0; i < n; ++i) lanes[i] = to_float(p[i]);
    return load(lanes);
}
QSHARD_INLINE void store(float* p, Vf v, std::int64_t n) {
    if (n >= kLanes) return store(p, v);
    float lanes[kLanes];
    store(lanes, v);
    for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
QSHARD_INLINE void store(bf16* p, Vf v, std::int64_t n) {
    if (n >= kLanes) return store(p, v);
    bf16 lanes[kLanes];
    store(lanes, v);
    for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
#endif

/// As a count of lanes: all of them, known when the code is compiled.
struct AllLanes {
    QSHARD_INLINE constexpr operator std::int64_t() const { return kLanes; }
};
/// Runs f(first, lanes) on the vectors of [0, count); but for a shorter last one, lanes is
/// AllLanes.
template <class F>
QSHARD_INLINE void for_vectors(std::int64_t count, F f) {
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) f(i, AllLanes{});
    if (i < count) f(i, count - i);
}

/// a * b + c: one rounding where the instruction set has it, else two.
QSHARD_INLINE Vf fma(Vf a, Vf b, Vf c) {
#if defined(__AVX512F__) && QSHARD_LANES == 16
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__) && QSHARD_LANES == 8
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}
QSHARD_INLINE Vf square_root(Vf a) {
#if defined(__AVX512F__) && QSHARD_LANES == 16
    return _mm512_maskz_sqrt_ps(0xffff, a);  // the plain form warns in GCC 12
#elif defined(__AVX2__) && QSHARD_LANES == 8
    return _mm256_sqrt_ps(a);
#elif defined(__SSE2__) && QSHARD_LANES == 4
    return _mm_sqrt_ps(a);
#else
    for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
    return a;
#endif
}
QSHARD_INLINE Vf maximum(Vf a, Vf b) {
    return a > b ? a : b;
}
QSHARD_INLINE Vf minimum(Vf a, Vf b) {
    return a < b ? a : b;
}
QSHARD_INLINE float maximum_of(Vf v) {
    float top = v[0];
    for (int i = 1; i < kLanes; ++i) top = v[i] > top ? v[i] : top;
    return top;
}

/// A sum over a vector in double: one chain per lane, then the lanes in order.
struct DoubleSum {
    Vd low = {}, high = {};

    QSHARD_INLINE void add(Vf v) {
        VfHalf half[2];
        __builtin_memcpy(half, &v, sizeof v);
        low += __builtin_convertvector(half[0], Vd);
        high += __builtin_convertvector(half[1], Vd);
    }
    /// Adds a * b, exact products.
    QSHARD_INLINE void add_product(Vf a, Vf b) {
        VfHalf x[2], y[2];
        __builtin_memcpy(x, &a, sizeof a);
        __builtin_memcpy(y, &b, sizeof b);
        low += __builtin_convertvector(x[0], Vd) * __builtin_convertvector(y[0], Vd);
        high += __builtin_convertvector(x[1], Vd) * __builtin_convertvector(y[1], Vd);
    }
    QSHARD_INLINE double total() const {
        double sum = 0;
        for (int i = 0; i < kLanes / 2; ++i) sum += low[i];
        for (int i = 0; i < kLanes / 2; ++i) sum += high[i];
        return sum;
    }
};

/// e^x within 2 ulp; exactly 1 at 0, exactly 0 below -87.33, infinity above 88.37. (Cephes expf)
QSHARD_INLINE Vf exponential(Vf x) {
    const Vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vf shifted = fma(x, splat(1.44269504088896341f), magic);
    const Vf n = shifted - magic;
    Vf r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vf p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r) + 1.0f;
    const Vf scaled =
        reinterpret_cast<Vf>(reinterpret_cast<Vu>(p) + (reinterpret_cast<Vu>(shifted) << 23));
    const Vf low = x < -87.33f ? Vf{} : scaled;
    return x > 88.37f ? splat(__builtin_inff()) : low;
}
QSHARD_INLINE Vf sigmoid(Vf x) {
    return 1.0f / (1.0f + exponential(-x));
}
/// Within 3 ulp. (Cephes tanhf)
QSHARD_INLINE Vf hyperbolic_tangent(Vf x) {
    const Vf magnitude = maximum(x, -x);
    const Vf z = x * x;
    Vf p = splat(-5.70498872745e-3f);
    p = fma(p, z, splat(2.06390887954e-2f));
    p = fma(p, z, splat(-5.37397155531e-2f));
    p = fma(p, z, splat(1.33314422036e-1f));
    p = fma(p, z, splat(-3.33332819422e-1f));
    const Vf small = fma(p * z, x, x);
    const Vf large = 1.0f - 2.0f / (exponential(magnitude + magnitude) + 1.0f);
    const Vf signed_large = x < 0.0f ? -large : large;
    return magnitude < 0.625f ? small : signed_large;
}
/// Within 2 ulp. (Minimax polynomials after N. Juffa)
QSHARD_INLINE Vf error_function(Vf x) {
    const Vf t = maximum(x, -x);
    const Vf s = x * x;
    Vf r = fma(splat(-1.72853470e-5f), t, splat(3.83197126e-4f));
    const Vf u = fma(splat(-3.88396438e-3f), t, splat(2.42546219e-2f));
    r = fma(r, s, u);
    r = fma(r, t, splat(-1.06777877e-1f));
    r = fma(r, t, splat(-6.34846687e-1f));
    r = fma(r, t, splat(-1.28717512e-1f));
    r = fma(r, t, -t);
    const Vf large = 1.0f - exponential(r);
    Vf p = splat(-5.96761703e-4f);
    p = fma(p, s, splat(4.99119423e-3f));
    p = fma(p, s, splat(-2.67681349e-2f));
    p = fma(p, s, splat(1.12819925e-1f));
    p = fma(p, s, splat(-3.76125336e-1f));
    p = fma(p, s, splat(1.28379166e-1f));
    const Vf small = fma(p, x, x);
    const Vf signed_large = x < 0.0f ? -large : large;
    return t > 0.927734375f ? signed_large : small;
}

/// Calls f with typed pointers for an operand of either dtype.
template <class F>
QSHARD_INLINE void typed(In x, F f) {
    if (x.is_bf16) {
        f(static_cast<const bf16*>(x.data));
    } else {
        f(static_cast<const float*>(x.data));
    }
}
template <class F>
QSHARD_INLINE void typed(Out x, F f) {
    if (x.is_bf16) {
        f(static_cast<bf16*>(x.data));
    } else {
        f(static_cast<float*>(x.data));
    }
}

}  // namespace
}  // namespace qshard::cpu
