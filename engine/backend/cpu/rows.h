#pragma once

#include "backend/cpu/simd.h"

/// Kernels over rows and elements.
namespace qshard::cpu {
namespace {

template <class T>
QSHARD_INLINE float inverse_rms(const T* x, std::int64_t width, float eps) {
    DoubleSum squares;
    for (std::int64_t c = 0; c < width; c += kLanes) {
        const Vf v = load(x + c, width - c);
        squares.add_product(v, v);
    }
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
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const Vf g = load(gain + c, width - c) + shift;
                    store(out + c, load(in + c, width - c) * inv * g, width - c);
                }
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
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const Vf g = load(gain + c, width - c) + shift;
                    dot.add_product(load(grad + c, width - c) * g, load(in + c, width - c));
                }
                const auto mean = static_cast<float>(dot.total() / static_cast<double>(width));
                const Vf factor = splat(mean * inv * inv);
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const Vf g = load(gain + c, width - c) + shift;
                    Vf d = inv * (load(grad + c, width - c) * g - load(in + c, width - c) * factor);
                    if (accumulate) d = load(dx + c, width - c) + d;
                    store(dx + c, d, width - c);
                }
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
    for (std::int64_t c = 0; c < width; c += kLanes) sum.add(load(x + c, width - c));
    const auto mean = static_cast<float>(sum.total() / static_cast<double>(width));
    for (std::int64_t c = 0; c < width; c += kLanes) {
        const Vf v = centred(x + c, width - c, mean);
        squares.add_product(v, v);
    }
    const double variance = squares.total() / static_cast<double>(width);
    return {mean, static_cast<float>(1.0 / __builtin_sqrt(variance + static_cast<double>(eps)))};
}

inline void layer_norm_rows(In x, const float* gain, const float* bias, float eps, Out y,
                            std::int64_t rows, std::int64_t width) {
    typed(x, [&](auto* in) {
        typed(y, [&](auto* out) {
            for (std::int64_t n = 0; n < rows; ++n, in += width, out += width) {
                const Spread s = spread_of(in, width, eps);
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const std::int64_t left = width - c;
                    const Vf z = centred(in + c, left, s.mean) * s.inverse;
                    store(out + c, z * load(gain + c, left) + load(bias + c, left), left);
                }
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
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const std::int64_t left = width - c;
                    const Vf g = load(grad + c, left) * load(gain + c, left);
                    sum.add(g);
                    dot.add_product(g, centred(in + c, left, s.mean) * s.inverse);
                }
                const auto mean = static_cast<float>(sum.total() / static_cast<double>(width));
                const auto slope = static_cast<float>(dot.total() / static_cast<double>(width));
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const std::int64_t left = width - c;
                    const Vf g = load(grad + c, left) * load(gain + c, left);
                    const Vf z = centred(in + c, left, s.mean) * s.inverse;
                    Vf d = s.inverse * (g - mean - z * slope);
                    if (accumulate) d = load(dx + c, left) + d;
                    store(dx + c, d, left);
                }
            }
        });
    });
}

inline void row_dots(In a, In b, float* out, std::int64_t rows, std::int64_t width) {
    typed(a, [&](auto* x) {
        typed(b, [&](auto* y) {
            for (std::int64_t n = 0; n < rows; ++n, x += width, y += width) {
                DoubleSum sum;
                for (std::int64_t c = 0; c < width; c += kLanes)
                    sum.add_product(load(x + c, width - c), load(y + c, width - c));
                out[n] = static_cast<float>(sum.total());
            }
        });
    });
}

inline void column_dots(In a, In b, const float* shift, float* sums, std::int64_t rows,
                        std::int64_t width, std::int64_t stride) {
    for (std::int64_t c = 0; c < width; c += kLanes) store(sums + c, Vf{}, width - c);
    typed(a, [&](auto* x) {
        typed(b, [&](auto* y) {
            for (std::int64_t n = 0; n < rows; ++n, x += stride, y += stride) {
                for (std::int64_t c = 0; c < width; c += kLanes) {
                    const std::int64_t left = width - c;
                    Vf value = load(y + c, left);
                    if (shift != nullptr) value -= load(shift + c, left);
                    store(sums + c, fma(load(x + c, left), value, load(sums + c, left)), left);
                }
            }
        });
    });
}

/// One token: x[heads][width], its line of cos and sin.
inline void rope_token(Out x, const float* cos, const float* sin, bool inverse, std::int64_t heads,
                       std::int64_t width, std::int64_t half) {
    typed(x, [&](auto* row) {
        for (std::int64_t h = 0; h < heads; ++h, row += width) {
            for (std::int64_t j = 0; j < half; j += kLanes) {
                const std::int64_t left = half - j;
                const Vf c = load(cos + j, left);
                const Vf s = inverse ? -load(sin + j, left) : load(sin + j, left);
                const Vf a = load(row + j, left), b = load(row + half + j, left);
                store(row + j, a * c - b * s, left);
                store(row + half + j, b * c + a * s, left);
            }
        }
    });
}

inline float log_softmax_row(float* z, std::int64_t count, std::int32_t target, float logit_scale,
                             float softcap, const float* dlogprob) {
    Vf tops = splat(-__builtin_inff());
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const std::int64_t left = count - i;
        Vf v = load(z + i, left) * logit_scale;
        if (softcap > 0) v = softcap * hyperbolic_tangent(v / softcap);
        store(z + i, v, left);
        if (left >= kLanes) {
            tops = maximum(v, tops);
        } else {
            for (std::int64_t j = 0; j < left; ++j) tops[0] = v[j] > tops[0] ? v[j] : tops[0];
        }
    }
    const float top = maximum_of(tops);
    const float target_logit = z[target];
    // Without a soft cap the exponentials are kept in place for the derivative.
    const bool keep = dlogprob != nullptr && softcap == 0;
    DoubleSum sums;
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const std::int64_t left = count - i;
        Vf e = exponential(load(z + i, left) - top);
        if (keep) store(z + i, e, left);
        for (std::int64_t j = left; j < kLanes; ++j) e[j] = 0;
        sums.add(e);
    }
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
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const std::int64_t left = count - i;
        const Vf v = load(z + i, left);
        store(z + i,
              keep ? derivative(v, splat(1.0f), 0.0f)
                   : derivative(exponential(v - top), slope_at(v), 0.0f),
              left);
    }
    z[target] = exact;
    return logprob;
}

inline void copy_scaled_elements(In x, float scale, Out y, std::int64_t count) {
    typed(x, [&](auto* in) {
        typed(y, [&](auto* out) {
            for (std::int64_t i = 0; i < count; i += kLanes) {
                store(out + i, load(in + i, count - i) * scale, count - i);
            }
        });
    });
}

inline void add_elements(In x, float scale, float* y, std::int64_t count) {
    typed(x, [&](auto* in) {
        for (std::int64_t i = 0; i < count; i += kLanes) {
            store(y + i, load(y + i, count - i) + scale * load(in + i, count - i), count - i);
        }
    });
}

constexpr float kGeluFactor = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

/// act(x), and its slope where asked for.
template <bool kSlope>
QSHARD_INLINE Vf activation(Activation kind, Vf x, Vf& slope) {
    switch (kind) {
        case Activation::kSilu: {
            const Vf s = sigmoid(x);
            if (kSlope) slope = s * (1.0f + x * (1.0f - s));
            return x * s;
        }
        case Activation::kGeluTanh: {
            const Vf t = hyperbolic_tangent(kGeluFactor * (x + kGeluCubic * x * x * x));
            if (kSlope) {
                const Vf inner = kGeluFactor * (1.0f + 3.0f * kGeluCubic * x * x);
                slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
            }
            return 0.5f * x * (1.0f + t);
        }
        case Activation::kGeluErf: {
            const Vf e = 0.5f * (1.0f + error_function(x * 0.7071067811865476f));
            if (kSlope) slope = e + x * 0.3989422804014327f * exponential(-0.5f * x * x);
            return x * e;
        }
        case Activation::kRelu:
            if (kSlope) slope = x > 0.0f ? splat(1.0f) : Vf{};
            return maximum(x, Vf{});
    }
    return x;
}

/// gate, up and out have one dtype; gate.data may be null.
inline void activate_elements(Activation kind, In gate, In up, Out out, std::int64_t count) {
    typed(up, [&](auto* u) {
        auto* g = static_cast<decltype(u)>(gate.data);
        for (std::int64_t i = 0; i < count; i += kLanes) {
            Vf slope{};
            const Vf v = load(u + i, count - i);
            const Vf a = g == nullptr ? activation<false>(kind, v, slope)
                                      : activation<false>(kind, load(g + i, count - i), slope) * v;
            typed(out, [&](auto* o) { store(o + i, a, count - i); });
        }
    });
}

inline void activate_backward_elements(Activation kind, In gate, In up, In dout, Out dgate, Out dup,
                                       std::int64_t count) {
    typed(up, [&](auto* u) {
        auto* g = static_cast<decltype(u)>(gate.data);
        typed(dout, [&](auto* d) {
            typed(dup, [&](auto* du) {
                for (std::int64_t i = 0; i < count; i += kLanes) {
                    const std::int64_t left = count - i;
                    const Vf v = load(u + i, left), grad = load(d + i, left);
                    Vf slope{};
                    if (g == nullptr) {
                        activation<true>(kind, v, slope);
                        store(du + i, grad * slope, left);
                        continue;
                    }
                    const Vf a = activation<true>(kind, load(g + i, left), slope);
                    const Vf to_gate = grad * v * slope;
                    typed(dgate, [&](auto* dg) { store(dg + i, to_gate, left); });
                    store(du + i, grad * a, left);
                }
            });
        });
    });
}

}  // namespace
}  // namespace qshard::cpu
