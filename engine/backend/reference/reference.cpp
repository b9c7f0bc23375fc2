#include "backend/reference/reference.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "tensor/int8.h"
#include "tensor/nf4.h"

namespace qshard {
namespace {

using reference::load;
using reference::rounded;
using reference::store;

float activation(Activation kind, float x) {
    switch (kind) {
        case Activation::kSilu:
            return x / (1.0f + std::exp(-x));
        case Activation::kGeluTanh: {
            const float t = std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x));
            return 0.5f * x * (1.0f + t);
        }
        case Activation::kGeluErf:
            return 0.5f * x * (1.0f + std::erf(x * 0.7071067811865476f));
        case Activation::kRelu:
            return x > 0 ? x : 0.0f;
    }
    return 0;
}

float activation_slope(Activation kind, float x) {
    switch (kind) {
        case Activation::kSilu: {
            const float s = 1.0f / (1.0f + std::exp(-x));
            return s * (1.0f + x * (1.0f - s));
        }
        case Activation::kGeluTanh: {
            const float t = std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x));
            const float inner = 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x * x);
            return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
        }
        case Activation::kGeluErf:
            return 0.5f * (1.0f + std::erf(x * 0.7071067811865476f)) +
                   x * 0.3989422804014327f * std::exp(-0.5f * x * x);
        case Activation::kRelu:
            return x > 0 ? 1.0f : 0.0f;
    }
    return 0;
}

float weight_at(const WeightView& w, std::int64_t i) {
    if (w.storage == Storage::kPlain) return load(w.plain, i) * w.scale;
    i += w.first;
    if (w.storage == Storage::kInt8) {
        const auto code = static_cast<float>(static_cast<std::int8_t>(w.codes[i]));
        return code * w.absmax[i / w.cols] * kInt8Step;
    }
    const std::int64_t block = i / kFourBitBlock;
    const float absmax =
        w.double_quant ? kDynamicMap[w.absmax_codes[block]] * w.absmax2[block / kNestedBlock] +
                             *w.absmax_offset
                       : w.absmax[block];
    const std::uint8_t pair = w.codes[i / 2];
    const auto& table = w.storage == Storage::kFp4 ? kFp4Table : kNf4Table;
    return table[i % 2 == 0 ? pair >> 4 : pair & 15] * absmax;
}

float row_factor(const WeightView& w, std::int64_t i) {
    return w.row_factors == nullptr ? 1.0f : w.row_factors[i / w.cols];
}

class ReferenceBackend final : public Backend {
  public:
    std::string_view name() const override { return "reference"; }
    std::string_view isa() const override { return "plain"; }
    int threads() const override { return 1; }
    std::size_t workspace_bytes() const override { return 0; }

    void* allocate(std::size_t bytes) override {
        void* pointer = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (pointer == nullptr) {
            throw SystemError(ExitCode::kUnavailable,
                              fmt::format("cannot allocate {} bytes of memory", bytes));
        }
        return pointer;
    }
    void release(void* pointer) override { std::free(pointer); }
    void upload(void* device, const void* host, std::size_t bytes) override {
        std::memcpy(device, host, bytes);
    }
    void download(void* host, const void* device, std::size_t bytes) override {
        std::memcpy(host, device, bytes);
    }
    void fill_zero(Tensor out) override { std::memset(out.data(), 0, out.bytes()); }
    void copy(Tensor in, Tensor out) override {
        check(in.count() == out.count(), "copy keeps the count");
        for (std::int64_t i = 0; i < in.count(); ++i) store(out, i, load(in, i));
    }
    void synchronize() override {}

    // Packed here means dequantized, row-major [rows, cols] in fp32 (rounded to `dtype`), whatever
    // the orientation.
    std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation,
                             DType) const override {
        return 2 * sizeof(std::int64_t) + static_cast<std::size_t>(rows * cols) * sizeof(float);
    }
    Packed pack(const WeightView& weight, Orientation orientation, DType dtype,
                void* destination) override {
        auto* header = static_cast<std::int64_t*>(destination);
        header[0] = orientation == Orientation::kForward ? weight.cols : 1;  // stride of outer
        header[1] = orientation == Orientation::kForward ? 1 : weight.cols;  // stride of inner
        auto* out = reinterpret_cast<float*>(header + 2);
        for (std::int64_t i = 0; i < weight.rows * weight.cols; ++i)
            out[i] = rounded(weight_at(weight, i) * row_factor(weight, i), dtype);
        const bool forward = orientation == Orientation::kForward;
        return {destination, forward ? weight.cols : weight.rows,
                forward ? weight.rows : weight.cols, dtype};
    }
    void gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) override {
        const std::int64_t rows = c.rows(), cols = c.cols();
        check(!accumulate || c.dtype() == DType::kF32, "gemm accumulates into fp32");
        for (std::int64_t m = 0; m < rows; ++m) {
            for (std::int64_t n = 0; n < cols; ++n) {
                float sum = 0;
                for (const GemmTerm& term : terms) {
                    check(term.a.rows() == rows && term.a.cols() == term.b.inner &&
                              term.b.outer == cols,
                          "gemm operands fit");
                    const auto* header = static_cast<const std::int64_t*>(term.b.data);
                    const auto* w = reinterpret_cast<const float*>(header + 2);
                    for (std::int64_t i = 0; i < term.b.inner; ++i) {
                        sum += rounded(load(term.a, m * term.b.inner + i), term.b.dtype) *
                               w[n * header[0] + i * header[1]];
                    }
                }
                if (!bias.empty()) sum += load(bias, n);
                store(c, m * cols + n, accumulate ? load(c, m * cols + n) + sum : sum);
            }
        }
    }
    void gemm_rows(Tensor a, Tensor b, float factor, DType dtype, Tensor c, bool transposed,
                   bool accumulate) override {
        const std::int64_t rows = a.rows(), m_count = a.cols(), k_count = b.cols();
        check(b.rows() == rows && c.count() == m_count * k_count, "gemm_rows operands fit");
        for (std::int64_t m = 0; m < m_count; ++m) {
            for (std::int64_t k = 0; k < k_count; ++k) {
                float sum = 0;
                for (std::int64_t n = 0; n < rows; ++n) {
                    sum += rounded(load(a, n * m_count + m), dtype) *
                           rounded(load(b, n * k_count + k), dtype);
                }
                const std::int64_t at = transposed ? k * m_count + m : m * k_count + k;
                store(c, at, accumulate ? load(c, at) + factor * sum : factor * sum);
            }
        }
    }
    void row_norms(const WeightView& weight, Tensor a, Tensor b, float factor, Tensor magnitude,
                   Tensor out) override {
        const std::int64_t r = a.rows(), width = weight.cols;
        check(a.cols() == width && b.rows() == weight.rows && b.cols() == r &&
                  out.count() == weight.rows &&
                  (magnitude.empty() || magnitude.count() == weight.rows),
              "row_norms operands fit");
        for (std::int64_t o = 0; o < weight.rows; ++o) {
            double squares = 0;
            for (std::int64_t i = 0; i < width; ++i) {
                double value = double{weight_at(weight, o * width + i)};
                for (std::int64_t k = 0; k < r; ++k) {
                    value += double{factor} * double{load(b, o * r + k)} *
                             double{load(a, k * width + i)};
                }
                squares += value * value;
            }
            const auto norm = static_cast<float>(std::sqrt(squares));
            if (magnitude.empty()) {
                store(out, o, norm);
            } else {
                store(out, o, norm > 0 ? load(magnitude, o) / norm : 0.0f);
            }
        }
    }
    void magnitude_backward(Tensor dy, Tensor y, Tensor bias, Tensor magnitude, Tensor factor,
                            Tensor db, Tensor dmagnitude) override {
        const std::int64_t width = dy.cols(), r = db.cols();
        check(y.rows() == dy.rows() && y.cols() == width && db.rows() == width &&
                  magnitude.count() == width && factor.count() == width &&
                  dmagnitude.count() == width && (bias.empty() || bias.count() == width),
              "magnitude_backward operands fit");
        for (std::int64_t o = 0; o < width; ++o) {
            double sum = 0;
            for (std::int64_t n = 0; n < dy.rows(); ++n) {
                const float shift = bias.empty() ? 0.0f : load(bias, o);
                sum += double{load(dy, n * width + o)} * double{load(y, n * width + o) - shift};
            }
            const float m = load(magnitude, o);
            store(dmagnitude, o, m == 0 ? 0.0f : static_cast<float>(sum / double{m}));
            for (std::int64_t k = 0; k < r; ++k)
                store(db, o * r + k, load(db, o * r + k) * load(factor, o));
        }
    }

    void embed(Tensor table, std::span<const std::int32_t> ids, float factor, Tensor x) override {
        const std::int64_t width = table.cols();
        for (std::size_t n = 0; n < ids.size(); ++n) {
            check(ids[n] >= 0 && ids[n] < table.rows(), "token id lies in the vocabulary");
            for (std::int64_t c = 0; c < width; ++c) {
                store(x, static_cast<std::int64_t>(n) * width + c,
                      factor * load(table, ids[n] * width + c));
            }
        }
    }
    void embed_backward(Tensor dx, std::span<const std::int32_t> ids, float factor,
                        Tensor dtable) override {
        const std::int64_t width = dtable.cols();
        for (std::size_t n = 0; n < ids.size(); ++n) {
            check(ids[n] < dtable.rows(), "token id lies in the vocabulary");
            for (std::int64_t c = 0; ids[n] >= 0 && c < width; ++c) {
                const std::int64_t at = ids[n] * width + c;
                const float change = factor * load(dx, static_cast<std::int64_t>(n) * width + c);
                store(dtable, at, load(dtable, at) + change);
            }
        }
    }
    void rms_norm(Tensor x, Tensor gain, float eps, bool offset, Tensor y) override {
        const std::int64_t width = gain.count();
        for (std::int64_t n = 0; n < x.count() / width; ++n) {
            const float inv = inverse_rms(x, n * width, width, eps);
            for (std::int64_t c = 0; c < width; ++c) {
                const float g = load(gain, c) + (offset ? 1.0f : 0.0f);
                store(y, n * width + c, load(x, n * width + c) * inv * g);
            }
        }
    }
    void rms_norm_backward(Tensor x, Tensor gain, float eps, bool offset, Tensor dy, Tensor dx,
                           bool accumulate) override {
        const std::int64_t width = gain.count();
        for (std::int64_t n = 0; n < x.count() / width; ++n) {
            const float inv = inverse_rms(x, n * width, width, eps);
            float mean = 0;
            for (std::int64_t c = 0; c < width; ++c) {
                const float g = load(gain, c) + (offset ? 1.0f : 0.0f);
                mean += load(dy, n * width + c) * g * load(x, n * width + c);
            }
            mean /= static_cast<float>(width);
            for (std::int64_t c = 0; c < width; ++c) {
                const float g = load(gain, c) + (offset ? 1.0f : 0.0f);
                const float value =
                    inv * (load(dy, n * width + c) * g - load(x, n * width + c) * mean * inv * inv);
                store(dx, n * width + c, accumulate ? load(dx, n * width + c) + value : value);
            }
        }
    }
    void layer_norm(Tensor x, Tensor gain, Tensor bias, float eps, Tensor y) override {
        const std::int64_t width = gain.count();
        for (std::int64_t n = 0; n < x.count() / width; ++n) {
            const Spread s = spread_of(x, n * width, width, eps);
            for (std::int64_t c = 0; c < width; ++c) {
                const float z = (load(x, n * width + c) - s.mean) * s.inverse;
                store(y, n * width + c, z * load(gain, c) + load(bias, c));
            }
        }
    }
    void layer_norm_backward(Tensor x, Tensor gain, float eps, Tensor dy, Tensor dx,
                             bool accumulate) override {
        const std::int64_t width = gain.count();
        for (std::int64_t n = 0; n < x.count() / width; ++n) {
            const Spread s = spread_of(x, n * width, width, eps);
            auto z = [&](std::int64_t c) { return (load(x, n * width + c) - s.mean) * s.inverse; };
            auto g = [&](std::int64_t c) { return load(dy, n * width + c) * load(gain, c); };
            double sum = 0, dot = 0;
            for (std::int64_t c = 0; c < width; ++c) {
                sum += double{g(c)};
                dot += double{g(c)} * double{z(c)};
            }
            const auto mean = static_cast<float>(sum / static_cast<double>(width));
            const auto slope = static_cast<float>(dot / static_cast<double>(width));
            for (std::int64_t c = 0; c < width; ++c) {
                const float value = s.inverse * (g(c) - mean - z(c) * slope);
                store(dx, n * width + c, accumulate ? load(dx, n * width + c) + value : value);
            }
        }
    }
    void rope(Tensor x, std::span<const std::int32_t> positions, Tensor cos, Tensor sin,
              bool inverse) override {
        check(x.rank() == 3, "rope takes [N, heads, D]");
        const std::int64_t heads = x.dim(1), width = x.dim(2), half = cos.cols();
        for (std::size_t n = 0; n < positions.size(); ++n) {
            for (std::int64_t h = 0; h < heads; ++h) {
                const std::int64_t at = (static_cast<std::int64_t>(n) * heads + h) * width;
                for (std::int64_t j = 0; j < half; ++j) {
                    const float c = load(cos, positions[n] * half + j);
                    const float s = load(sin, positions[n] * half + j) * (inverse ? -1.0f : 1.0f);
                    const float a = load(x, at + j), b = load(x, at + half + j);
                    store(x, at + j, a * c - b * s);
                    store(x, at + half + j, b * c + a * s);
                }
            }
        }
    }
    void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                   Tensor lse) override {
        reference::attention(shape, q, k, v, out, lse);
    }
    void attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor,
                            Tensor lse, Tensor dout, Tensor dq, Tensor dk, Tensor dv) override {
        reference::attention_backward(shape, q, k, v, lse, dout, dq, dk, dv);
    }
    void activate(Activation kind, Tensor gate, Tensor up, Tensor out) override {
        for (std::int64_t i = 0; i < up.count(); ++i) {
            const float u = load(up, i);
            store(out, i, gate.empty() ? activation(kind, u) : activation(kind, load(gate, i)) * u);
        }
    }
    void activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout, Tensor dgate,
                           Tensor dup) override {
        for (std::int64_t i = 0; i < up.count(); ++i) {
            const float u = load(up, i), d = load(dout, i);
            if (gate.empty()) {
                store(dup, i, d * activation_slope(kind, u));
                continue;
            }
            const float g = load(gate, i);
            store(dgate, i, d * u * activation_slope(kind, g));
            store(dup, i, d * activation(kind, g));
        }
    }
    void add(Tensor x, float factor, Tensor y) override {
        for (std::int64_t i = 0; i < y.count(); ++i) store(y, i, load(y, i) + factor * load(x, i));
    }
    void add_rows(Tensor in, std::span<const std::int32_t> rows, std::span<const float> factors,
                  Tensor out) override {
        const std::int64_t width = out.cols();
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::int64_t c = 0; c < width; ++c) {
                const std::int64_t at = rows[i] * width + c;
                const float value = load(in, static_cast<std::int64_t>(i) * width + c);
                store(out, at, load(out, at) + factors[i] * value);
            }
        }
    }
    void scale_rows(Tensor x, std::span<const float> factors) override {
        const std::int64_t width = x.cols();
        for (std::int64_t i = 0; i < x.count(); ++i) {
            store(x, i, load(x, i) * factors[static_cast<std::size_t>(i / width)]);
        }
    }
    void row_dots(Tensor a, Tensor b, Tensor out) override {
        const std::int64_t width = a.cols();
        for (std::int64_t n = 0; n < a.rows(); ++n) {
            double sum = 0;
            for (std::int64_t c = 0; c < width; ++c)
                sum += double{load(a, n * width + c)} * double{load(b, n * width + c)};
            store(out, n, static_cast<float>(sum));
        }
    }

    void log_softmax(Tensor logits, std::span<const std::int32_t> targets, float logit_scale,
                     float softcap, Tensor dlogprob, Tensor logprob) override {
        const std::int64_t vocabulary = logits.cols();
        for (std::int64_t m = 0; m < logits.rows(); ++m) {
            float* z = logits.as<float>() + m * vocabulary;
            float top = -INFINITY;
            for (std::int64_t v = 0; v < vocabulary; ++v) {
                z[v] *= logit_scale;
                if (softcap > 0) z[v] = softcap * std::tanh(z[v] / softcap);
                top = std::max(top, z[v]);
            }
            double sum = 0;
            for (std::int64_t v = 0; v < vocabulary; ++v) sum += std::exp(z[v] - top);
            const std::int32_t target = targets[static_cast<std::size_t>(m)];
            const double log_sum = double{top} + std::log(sum);
            store(logprob, m, static_cast<float>(double{z[target]} - log_sum));
            if (dlogprob.empty()) continue;
            const float d = load(dlogprob, m);
            for (std::int64_t v = 0; v < vocabulary; ++v) {
                const float p = static_cast<float>(std::exp(double{z[v]} - log_sum));
                const float slope = softcap > 0 ? 1.0f - (z[v] / softcap) * (z[v] / softcap) : 1.0f;
                z[v] = d * ((v == target ? 1.0f : 0.0f) - p) * slope * logit_scale;
            }
        }
    }
    void gather_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) override {
        const std::int64_t width = in.cols();
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::int64_t c = 0; c < width; ++c) {
                store(out, static_cast<std::int64_t>(i) * width + c, load(in, rows[i] * width + c));
            }
        }
    }
    void scatter_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) override {
        const std::int64_t width = in.cols();
        fill_zero(out);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::int64_t c = 0; c < width; ++c) {
                store(out, rows[i] * width + c, load(in, static_cast<std::int64_t>(i) * width + c));
            }
        }
    }

    double sum_of_squares(Tensor x) override {
        const float* values = x.as<float>();
        double total = 0;
        for (std::int64_t begin = 0; begin < x.count(); begin += 4096) {
            double chunk = 0;
            for (std::int64_t i = begin; i < std::min(begin + 4096, x.count()); ++i) {
                chunk += double{values[i]} * double{values[i]};
            }
            total += chunk;
        }
        return total;
    }
    void scale(Tensor x, float factor) override {
        for (std::int64_t i = 0; i < x.count(); ++i) store(x, i, load(x, i) * factor);
    }
    void adamw(const AdamW& h, Tensor parameter, Tensor gradient, Tensor exp_avg,
               Tensor exp_avg_sq) override {
        float *p = parameter.as<float>(), *m = exp_avg.as<float>(), *v = exp_avg_sq.as<float>();
        const float* g = gradient.as<float>();
        const auto t = static_cast<double>(h.step_number);
        const auto step_size =
            static_cast<float>(double{h.learning_rate} / (1.0 - std::pow(double{h.beta1}, t)));
        const auto root = static_cast<float>(std::sqrt(1.0 - std::pow(double{h.beta2}, t)));
        for (std::int64_t i = 0; i < parameter.count(); ++i) {
            p[i] *= 1.0f - h.learning_rate * h.weight_decay;
            m[i] = h.beta1 * m[i] + (1.0f - h.beta1) * g[i];
            v[i] = h.beta2 * v[i] + (1.0f - h.beta2) * g[i] * g[i];
            p[i] -= step_size * m[i] / (std::sqrt(v[i]) / root + h.epsilon);
        }
    }
    void sgd(const Sgd& h, Tensor parameter, Tensor gradient, Tensor momentum) override {
        float* p = parameter.as<float>();
        const float* g = gradient.as<float>();
        for (std::int64_t i = 0; i < parameter.count(); ++i) {
            float d = g[i] + h.weight_decay * p[i];
            if (!momentum.empty()) {
                float& buffer = momentum.as<float>()[i];
                buffer = h.step_number == 1 ? d : h.momentum * buffer + d;
                d = buffer;
            }
            p[i] -= h.learning_rate * d;
        }
    }
    void rmsprop(const RmsProp& h, Tensor parameter, Tensor gradient, Tensor square_avg,
                 Tensor momentum) override {
        float *p = parameter.as<float>(), *s = square_avg.as<float>();
        const float* g = gradient.as<float>();
        for (std::int64_t i = 0; i < parameter.count(); ++i) {
            float d = g[i] + h.weight_decay * p[i];
            s[i] = h.alpha * s[i] + (1.0f - h.alpha) * d * d;
            d /= std::sqrt(s[i]) + h.epsilon;
            if (!momentum.empty()) {
                float& buffer = momentum.as<float>()[i];
                buffer = h.momentum * buffer + d;
                d = buffer;
            }
            p[i] -= h.learning_rate * d;
        }
    }

  private:
    /// Mean of a row and the inverse of its standard deviation.
    struct Spread {
        float mean, inverse;
    };
    static Spread spread_of(const Tensor& x, std::int64_t at, std::int64_t width, float eps) {
        double sum = 0, squares = 0;
        for (std::int64_t c = 0; c < width; ++c) sum += double{load(x, at + c)};
        const double mean = sum / static_cast<double>(width);
        for (std::int64_t c = 0; c < width; ++c)
            squares += (double{load(x, at + c)} - mean) * (double{load(x, at + c)} - mean);
        const double variance = squares / static_cast<double>(width);
        return {static_cast<float>(mean),
                static_cast<float>(1.0 / std::sqrt(variance + double{eps}))};
    }
    static float inverse_rms(const Tensor& x, std::int64_t at, std::int64_t width, float eps) {
        double sum = 0;
        for (std::int64_t c = 0; c < width; ++c)
            sum += double{load(x, at + c)} * double{load(x, at + c)};
        return static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(width) + double{eps}));
    }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() {
    return std::make_unique<ReferenceBackend>();
}

}  // namespace qshard
