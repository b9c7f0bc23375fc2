#pragma once

#include "backend/cpu/simd.h"

/// Kernels over the flat trainable vector. Only IEEE operations, in the order written, without
/// fused multiply-adds: every instruction set gives the same bits.
namespace qshard::cpu {
namespace {

constexpr std::int64_t kSquaresChunk = 4096;

/// Eight chunks at a time, one chain of sums each.
inline void sum_of_squares_chunks(const float* x, std::int64_t count, double* sums) {
    constexpr int kChains = 8;
    while (count >= kChains * kSquaresChunk) {
        double chain[kChains] = {};
        for (std::int64_t i = 0; i < kSquaresChunk; ++i) {
#pragma GCC unroll 8
            for (int c = 0; c < kChains; ++c) {
                const double value = x[c * kSquaresChunk + i];
                chain[c] += value * value;
            }
        }
        for (int c = 0; c < kChains; ++c) *sums++ = chain[c];
        x += kChains * kSquaresChunk;
        count -= kChains * kSquaresChunk;
    }
    for (; count > 0; x += kSquaresChunk, count -= kSquaresChunk) {
        double chain = 0;
        for (std::int64_t i = 0; i < (count < kSquaresChunk ? count : kSquaresChunk); ++i) {
            chain += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        }
        *sums++ = chain;
    }
}

inline double power(double base, std::int64_t exponent) {
    return __builtin_pow(base, static_cast<double>(exponent));
}

inline void adamw_elements(const AdamW& h, float* parameter, const float* gradient, float* exp_avg,
                           float* exp_avg_sq, std::int64_t count) {
    const auto step_size = static_cast<float>(static_cast<double>(h.learning_rate) /
                                              (1.0 - power(h.beta1, h.step_number)));
    const auto root = static_cast<float>(__builtin_sqrt(1.0 - power(h.beta2, h.step_number)));
    const float keep = 1.0f - h.learning_rate * h.weight_decay;
    const float rest1 = 1.0f - h.beta1, rest2 = 1.0f - h.beta2;
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const std::int64_t left = count - i;
        const Vf g = load(gradient + i, left);
        const Vf m = h.beta1 * load(exp_avg + i, left) + rest1 * g;
        const Vf v = h.beta2 * load(exp_avg_sq + i, left) + rest2 * g * g;
        const Vf p = load(parameter + i, left) * keep;
        store(exp_avg + i, m, left);
        store(exp_avg_sq + i, v, left);
        store(parameter + i, p - step_size * m / (square_root(v) / root + h.epsilon), left);
    }
}

inline void sgd_elements(const Sgd& h, float* parameter, const float* gradient, float* momentum,
                         std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const std::int64_t left = count - i;
        const Vf p = load(parameter + i, left);
        Vf d = load(gradient + i, left) + h.weight_decay * p;
        if (momentum != nullptr) {
            if (h.step_number != 1) d = h.momentum * load(momentum + i, left) + d;
            store(momentum + i, d, left);
        }
        store(parameter + i, p - h.learning_rate * d, left);
    }
}

inline void rmsprop_elements(const RmsProp& h, float* parameter, const float* gradient,
                             float* square_avg, float* momentum, std::int64_t count) {
    const float rest = 1.0f - h.alpha;
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const std::int64_t left = count - i;
        const Vf p = load(parameter + i, left);
        Vf d = load(gradient + i, left) + h.weight_decay * p;
        const Vf s = h.alpha * load(square_avg + i, left) + rest * d * d;
        store(square_avg + i, s, left);
        d = d / (square_root(s) + h.epsilon);
        if (momentum != nullptr) {
            d = h.momentum * load(momentum + i, left) + d;
            store(momentum + i, d, left);
        }
        store(parameter + i, p - h.learning_rate * d, left);
    }
}

/// Independent chains of multiply-adds in registers: the peak that a kernel can be held against.
inline double spin(std::int64_t rounds) {
    Vf chain[10];
    for (int i = 0; i < 10; ++i) chain[i] = splat(static_cast<float>(i));
    const Vf a = splat(0.999f), b = splat(0.001f);
    for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 10
        for (int i = 0; i < 10; ++i) chain[i] = fma(chain[i], a, b);
    }
    Vf sum = chain[0];
    for (int i = 1; i < 10; ++i) sum += chain[i];
    volatile float sink = sum[0];
    (void)sink;
    return static_cast<double>(rounds) * 10 * kLanes * 2;
}

}  // namespace
}  // namespace qshard::cpu
