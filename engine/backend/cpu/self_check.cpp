#include "backend/cpu/self_check.h"

#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "base/philox.h"

namespace qshard {
namespace {

constexpr std::int64_t kRows = 37, kOut = 50, kIn = 70;
constexpr float kTolerance = 0.02f;  ///< of the largest expected value: bf16 operands, short sums

/// A matrix of memory of its own, values in [-1, 1) that bf16 can hold.
struct Matrix {
    Matrix(std::int64_t rows, std::int64_t cols, std::uint32_t stream)
        : values(static_cast<std::size_t>(rows * cols)),
          tensor(values.data(), DType::kF32, {rows, cols}) {
        const Philox random(1, Purpose::kTestData, stream);
        for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = to_float(to_bf16(2.0f * random.uniform(i) - 1.0f));
        }
    }
    float at(std::int64_t row, std::int64_t col) const {
        return values[static_cast<std::size_t>(row * tensor.cols() + col)];
    }
    std::vector<float> values;
    Tensor tensor;
};

bool close(const Matrix& got, const std::vector<float>& want) {
    float largest = 0, worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        largest = std::max(largest, std::abs(want[i]));
        // Written so that a NaN is a difference.
        if (!(std::abs(got.values[i] - want[i]) <= worst))
            worst = std::abs(got.values[i] - want[i]);
    }
    return worst <= kTolerance * largest;
}

bool products_agree(Backend& backend, DType dtype) {
    const Matrix x(kRows, kIn, 1), w(kOut, kIn, 2), dy(kRows, kOut, 3);
    Matrix y(kRows, kOut, 4), dx(kRows, kIn, 5), dw(kOut, kIn, 6);
    WeightView view;
    view.rows = kOut;
    view.cols = kIn;
    view.plain = w.tensor;
    auto multiply = [&](Orientation orientation, const Matrix& a, Matrix& out) {
        std::vector<std::byte> memory(backend.packed_bytes(kOut, kIn, orientation, dtype) + 64);
        std::byte* aligned =
            memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
        const GemmTerm term{a.tensor, backend.pack(view, orientation, dtype, aligned)};
        backend.gemm({&term, 1}, Tensor(), out.tensor, false);
    };
    multiply(Orientation::kForward, x, y);
    multiply(Orientation::kBackward, dy, dx);
    backend.gemm_rows(dy.tensor, x.tensor, 1.0f, dtype, dw.tensor, false, false);
    std::vector<float> want_y(y.values.size()), want_dx(dx.values.size()),
        want_dw(dw.values.size());
    for (std::int64_t m = 0; m < kRows; ++m) {
        for (std::int64_t o = 0; o < kOut; ++o) {
            for (std::int64_t i = 0; i < kIn; ++i) {
                want_y[static_cast<std::size_t>(m * kOut + o)] += x.at(m, i) * w.at(o, i);
                want_dx[static_cast<std::size_t>(m * kIn + i)] += dy.at(m, o) * w.at(o, i);
                want_dw[static_cast<std::size_t>(o * kIn + i)] += dy.at(m, o) * x.at(m, i);
            }
        }
    }
    return close(y, want_y) && close(dx, want_dx) && close(dw, want_dw);
}

bool attention_agrees(Backend& backend, DType dtype) {
    constexpr std::int64_t kHeads = 2, kWidth = 24;
    const Matrix q(kRows, kHeads * kWidth, 7), k(kRows, kWidth, 8), v(kRows, kWidth, 9);
    Matrix out(kRows, kHeads * kWidth, 10);
    std::vector<bf16> narrow[4];
    Tensor operands[4];
    const Matrix* sources[] = {&q, &k, &v, &out};
    for (int i = 0; i < 4; ++i) {
        operands[i] = sources[i]->tensor;
        if (dtype != DType::kBF16) continue;
        narrow[i].resize(sources[i]->values.size());
        operands[i] = Tensor(narrow[i].data(), DType::kBF16, {kRows, sources[i]->tensor.cols()});
        backend.copy(sources[i]->tensor, operands[i]);
    }
    const AttentionSequence whole{0, kRows, 0, kRows};
    AttentionShape shape;
    shape.heads = kHeads;
    shape.kv_heads = 1;
    shape.head_width = kWidth;
    shape.scale = 0.2f;
    shape.sequences = {&whole, 1};
    backend.attention(shape, operands[0], operands[1], operands[2], operands[3], Tensor());
    backend.copy(operands[3], out.tensor);
    std::vector<float> want(out.values.size());
    for (std::int64_t n = 0; n < kRows; ++n) {
        for (std::int64_t h = 0; h < kHeads; ++h) {
            float sum = 0;
            for (std::int64_t j = 0; j <= n; ++j) {
                float score = 0;
                for (std::int64_t c = 0; c < kWidth; ++c)
                    score += q.at(n, h * kWidth + c) * k.at(j, c);
                const float p = std::exp(0.2f * score);
                sum += p;
                for (std::int64_t c = 0; c < kWidth; ++c) {
                    want[static_cast<std::size_t>((n * kHeads + h) * kWidth + c)] += p * v.at(j, c);
                }
            }
            for (std::int64_t c = 0; c < kWidth; ++c) {
                want[static_cast<std::size_t>((n * kHeads + h) * kWidth + c)] /= sum;
            }
        }
    }
    return close(out, want);
}

}  // namespace

bool kernels_agree(std::string_view isa) {
    const auto backend = make_cpu_backend({1, std::string(isa)});
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
        if (!products_agree(*backend, dtype) || !attention_agrees(*backend, dtype)) return false;
    }
    return true;
}

}  // namespace qshard
