#pragma once

#include "backend/cpu/simd.h"

/// Kernels over rows and elements.
namespace qshard::cpu {
namespace {

template <class T>
QSHARD_INLINE float inverse_rms(const T* x, std::int64_t width, float eps) {
    DoubleSum squares;
    for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
        const Vf v = load(x + c, left);
        squares.add_product(v, v);
    });
    const double mean = squares.total() / static_cast<double>(width);
    return static_cast<float>(1.0 / __builtin_sqrt(mean + static_cast<double>(eps)));
}

inline void rms_norm_rows(In x, const float* gain, float eps, bool offset, Out y, std::int64_t rows,
                          std::int64_t width) {
    const Vf shift = splat(offset ? 1.0f : 0.0f);
    typed(x, [&](auto* in) {
        typed(y, [&](auto* out) {
            for (std::int64_t n = 0; n < rows; ++n, in += width, out += width) {
                const Vf inv = splat(inverse_rms(in, width, eps));
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    const Vf g = load(gain + c, left) + shift;
                    store(out + c, load(in + c, left) * inv * g, left);
                });
            }
        });
    });
}

inline void rms_norm_backward_rows(In x, const float* gain, float eps, bool offset, In dy,
                                   float* dx, bool accumulate, std::int64_t rows,
                                   std::int64_t width) {
    const Vf shift = splat(offset ? 1.0f : 0.0f);
    typed(x, [&](auto* in) {
        typed(dy, [&](auto* grad) {
            for (std::int64_t n = 0; n < rows; ++n, in += width, grad += width, dx += width) {
                const float inv = inverse_rms(in, width, eps);
                DoubleSum dot;
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    const Vf g = load(gain + c, left) + shift;
                    dot.add_product(load(grad + c, left) * g, load(in + c, left));
                });
                const auto mean = static_cast<float>(dot.total() / static_cast<double>(width));
                const Vf factor = splat(mean * inv * inv);
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    const Vf g = load(gain + c, left) + shift;
                    Vf d = inv * (load(grad + c, left) * g - load(in + c, left) * factor);
                    if (accumulate) d = load(dx + c, left) + d;
                    store(dx + c, d, left);
                });
            }
        });
    });
}

/// x - mean at p; zero beyond the row, where load() gives zeros.
template <class T>
QSHARD_INLINE Vf centred(const T* p, std::int64_t left, float mean) {
    Vf v = load(p, left) - mean;
    for (std::int64_t j = left; j < kLanes; ++j) v[j] = 0;
    return v;
}

/// Mean of a row and the inverse of its standard deviation.
struct Spread {
    float mean, inverse;
};
template <class T>
QSHARD_INLINE Spread spread_of(const T* x, std::int64_t width, float eps) {
    DoubleSum sum, squares;
    for_vectors(
        width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA { sum.add(load(x + c, left)); });
    const auto mean = static_cast<float>(sum.total() / static_cast<double>(width));
    for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
        const Vf v = centred(x + c, left, mean);
        squares.add_product(v, v);
    });
    const double variance = squares.total() / static_cast<double>(width);
    return {mean, static_cast<float>(1.0 / __builtin_sqrt(variance + static_cast<double>(eps)))};
}

inline void layer_norm_rows(In x, const float* gain, const float* bias, float eps, Out y,
                            std::int64_t rows, std::int64_t width) {
    typed(x, [&](auto* in) {
        typed(y, [&](auto* out) {
            for (std::int64_t n = 0; n < rows; ++n, in += width, out += width) {
                const Spread s = spread_of(in, width, eps);
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    const Vf z = centred(in + c, left, s.mean) * s.inverse;
                    store(out + c, z * load(gain + c, left) + load(bias + c, left), left);
                });
            }
        });
    });
}

inline void layer_norm_backward_rows(In x, const float* gain, float eps, In dy, float* dx,
                                     bool accumulate, std::int64_t rows, std::int64_t width) {
    typed(x, [&](auto* in) {
        typed(dy, [&](auto* grad) {
            for (std::int64_t n = 0; n < rows; ++n, in += width, grad += width, dx += width) {
                const Spread s = spread_of(in, width, eps);
                DoubleSum sum, dot;
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    const Vf g = load(grad + c, left) * load(gain + c, left);
                    sum.add(g);
                    dot.add_product(g, centred(in + c, left, s.mean) * s.inverse);
                });
                const auto mean = static_cast<float>(sum.total() / static_cast<double>(width));
                const auto slope = static_cast<float>(dot.total() / static_cast<double>(width));
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    const Vf g = load(grad + c, left) * load(gain + c, left);
                    const Vf z = centred(in + c, left, s.mean) * s.inverse;
                    Vf d = s.inverse * (g - mean - z * slope);
                    if (accumulate) d = load(dx + c, left) + d;
                    store(dx + c, d, left);
                });
            }
        });
    });
}

inline void row_dots(In a, In b, float* out, std::int64_t rows, std::int64_t width) {
    typed(a, [&](auto* x) {
        typed(b, [&](auto* y) {
            for (std::int64_t n = 0; n < rows; ++n, x += width, y += width) {
                DoubleSum sum;
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    sum.add_product(load(x + c, left), load(y + c, left));
                });
                out[n] = static_cast<float>(sum.total());
            }
        });
    });
}

inline void column_dots(In a, In b, const float* shift, float* sums, std::int64_t rows,
                        std::int64_t width, std::int64_t stride) {
    for_vectors(width, [&](std::int64_t c, auto left)
                           QSHARD_INLINE_LAMBDA { store(sums + c, Vf{}, left); });
    typed(a, [&](auto* x) {
        typed(b, [&](auto* y) {
            for (std::int64_t n = 0; n < rows; ++n, x += stride, y += stride) {
                for_vectors(width, [&](std::int64_t c, auto left) QSHARD_INLINE_LAMBDA {
                    Vf value = load(y + c, left);
                    if (shift != nullptr) value -= load(shift + c, left);
                    store(sums + c, fma(load(x + c, left), value, load(sums + c, left)), left);
                });
            }
        });
    });
}

/// One token: x[heads][width], its line of cos and sin.
inline void rope_token(Out x, const float* cos, const float* sin, bool inverse, std::int64_t heads,
                       std::int64_t width, std::int64_t half) {
    typed(x, [&](auto* row) {
        for (std::int64_t h = 0; h < heads; ++h, row += width) {
            for_vectors(half, [&](std::int64_t j, auto left) QSHARD_INLINE_LAMBDA {
                const Vf c = load(cos + j, left);
                const Vf s = inverse ? -load(sin + j, left) : load(sin + j, left);
                const Vf a = load(row + j, left), b = load(row + half + j, left);
                store(row + j, a * c - b * s, left);
                store(row + half + j, b * c + a * s, left);
            });
        }
    });
}

inline float log_softmax_row(float* z, std::int64_t count, std::int32_t target, float logit_scale,
                             float softcap, const float* dlogprob) {
    Vf tops = splat(-__builtin_inff());
    for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
        Vf v = load(z + i, left) * logit_scale;
        if (softcap > 0) v = softcap * hyperbolic_tangent(v / softcap);
        store(z + i, v, left);
        if (left >= kLanes) {
            tops = maximum(v, tops);
        } else {
            for (std::int64_t j = 0; j < left; ++j) tops[0] = v[j] > tops[0] ? v[j] : tops[0];
        }
    });
    const float top = maximum_of(tops);
    const float target_logit = z[target];
    // Without a soft cap the exponentials are kept in place for the derivative.
    const bool keep = dlogprob != nullptr && softcap == 0;
    DoubleSum sums;
    for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
        Vf e = exponential(load(z + i, left) - top);
        if (keep) store(z + i, e, left);
        for (std::int64_t j = left; j < kLanes; ++j) e[j] = 0;
        sums.add(e);
    });
    const double sum = sums.total();
    const double log_sum = static_cast<double>(top) + __builtin_log(sum);
    const auto logprob = static_cast<float>(static_cast<double>(target_logit) - log_sum);
    if (dlogprob == nullptr) return logprob;
    const float d = *dlogprob;
    const auto share = static_cast<float>(1.0 / sum);
    auto derivative = [&](Vf e, Vf slope, float hit) {
        return d * (hit - e * share) * slope * logit_scale;
    };
    auto slope_at = [&](Vf v) {
        const Vf t = softcap > 0 ? v / softcap : Vf{};
        return 1.0f - t * t;
    };
    const Vf at_target = splat(target_logit);
    const float exact = derivative(exponential(at_target - top), slope_at(at_target), 1.0f)[0];
    for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
        const Vf v = load(z + i, left);
        store(z + i,
              keep ? derivative(v, splat(1.0f), 0.0f)
                   : derivative(exponential(v - top), slope_at(v), 0.0f),
              left);
    });
    z[target] = exact;
    return logprob;
}

inline void copy_scaled_elements(In x, float scale, Out y, std::int64_t count) {
    typed(x, [&](auto* in) {
        typed(y, [&](auto* out) {
            for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
                store(out + i, load(in + i, left) * scale, left);
            });
        });
    });
}

inline void add_elements(In x, float scale, float* y, std::int64_t count) {
    typed(x, [&](auto* in) {
        for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
            store(y + i, load(y + i, left) + scale * load(in + i, left), left);
        });
    });
}

constexpr float kGeluFactor = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

/// act(x), and its slope where asked for.
template <Activation kKind, bool kSlope>
QSHARD_INLINE Vf activation(Vf x, Vf& slope) {
    if constexpr (kKind == Activation::kSilu) {
        const Vf s = sigmoid(x);
        if (kSlope) slope = s * (1.0f + x * (1.0f - s));
        return x * s;
    } else if constexpr (kKind == Activation::kGeluTanh) {
        const Vf t = hyperbolic_tangent(kGeluFactor * (x + kGeluCubic * x * x * x));
        if (kSlope) {
            const Vf inner = kGeluFactor * (1.0f + 3.0f * kGeluCubic * x * x);
            slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
        }
        return 0.5f * x * (1.0f + t);
    } else if constexpr (kKind == Activation::kGeluErf) {
        const Vf e = 0.5f * (1.0f + error_function(x * 0.7071067811865476f));
        if (kSlope) slope = e + x * 0.3989422804014327f * exponential(-0.5f * x * x);
        return x * e;
    } else {
        if (kSlope) slope = x > 0.0f ? splat(1.0f) : Vf{};
        return maximum(x, Vf{});
    }
}

template <Activation kKind>
struct ActivationKind {
    static constexpr Activation value = kKind;
};
/// Calls f with the kind as a type.
template <class F>
QSHARD_INLINE void with_kind(Activation kind, F f) {
    switch (kind) {
        case Activation::kSilu:
            return f(ActivationKind<Activation::kSilu>());
        case Activation::kGeluTanh:
            return f(ActivationKind<Activation::kGeluTanh>());
        case Activation::kGeluErf:
            return f(ActivationKind<Activation::kGeluErf>());
        case Activation::kRelu:
            return f(ActivationKind<Activation::kRelu>());
    }
}

/// gate and up have one dtype; gate.data may be null.
inline void activate_elements(Activation kind, In gate, In up, Out out, std::int64_t count) {
    auto run = [&]<class K, class T>(K, const T* g, const T* u, auto* o) {
        for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
            Vf slope{};
            const Vf v = load(u + i, left);
            const Vf a = g == nullptr ? activation<K::value, false>(v, slope)
                                      : activation<K::value, false>(load(g + i, left), slope) * v;
            store(o + i, a, left);
        });
    };
    with_kind(kind, [&](auto k) {
        typed(up, [&](auto* u) {
            typed(out, [&](auto* o) { run(k, static_cast<decltype(u)>(gate.data), u, o); });
        });
    });
}

/// gate and up have one dtype; gate.data may be null.
inline void activate_backward_elements(Activation kind, In gate, In up, In dout, Out dgate, Out dup,
                                       std::int64_t count) {
    auto run = [&]<class K, class T>(K, const T* g, const T* u, auto* du) {
        for_vectors(count, [&](std::int64_t i, auto left) QSHARD_INLINE_LAMBDA {
            Vf grad, slope{};
            typed(dout, [&](auto* d) { grad = load(d + i, left); });
            const Vf v = load(u + i, left);
            if (g == nullptr) {
                activation<K::value, true>(v, slope);
                store(du + i, grad * slope, left);
                return;
            }
            const Vf a = activation<K::value, true>(load(g + i, left), slope);
            const Vf to_gate = grad * v * slope;
            typed(dgate, [&](auto* dg) { store(dg + i, to_gate, left); });
            store(du + i, grad * a, left);
        });
    };
    with_kind(kind, [&](auto k) {
        typed(up, [&](auto* u) {
            typed(dup, [&](auto* du) { run(k, static_cast<decltype(u)>(gate.data), u, du); });
        });
    });
}

}  // namespace
}  // namespace qshard::cpu
