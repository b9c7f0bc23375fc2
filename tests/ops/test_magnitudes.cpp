#include "weights.h"

/// DoRA's operations: row factors in packed weights, norms of adapted rows, derivatives by
/// magnitudes.
namespace qshard::ops {
namespace {

class Magnitudes : public Ops {};
QSHARD_OPS_SUITE(Magnitudes);

struct Shape {
    std::int64_t rows, cols, r;
};
const Shape kShapes[] = {{64, 64, 8}, {35, 97, 3}, {9, 576, 16}, {130, 33, 1}, {1, 7, 2}};

/// Weights of one shape in every form.
std::vector<Weight> weights_of(const Shape& x) {
    std::vector<Weight> weights = {plain_weight(1, x.rows, x.cols, DType::kF32, 0.5f),
                                   plain_weight(2, x.rows, x.cols, DType::kBF16, 0.5f, 1.25f)};
    for (const WeightForm form : kForms)
        weights.push_back(quantized_weight(3, x.rows, x.cols, form, 0.5f));
    return weights;
}

TEST_P(Magnitudes, RowFactorsAreAppliedBeforeTheOneRounding) {
    for (const Shape& x : kShapes) {
        const Array factors = random(4, {x.rows});
        for (const Weight& w : weights_of(x)) {
            for (const Orientation way : {Orientation::kForward, Orientation::kBackward}) {
                for (const DType dtype : {DType::kF32, DType::kBF16}) {
                    SCOPED_TRACE(fmt::format("{} x {} {} way {} {}", x.rows, x.cols,
                                             static_cast<int>(w.storage), static_cast<int>(way),
                                             name_of(dtype)));
                    const bool forward = way == Orientation::kForward;
                    const std::int64_t inner = forward ? x.cols : x.rows,
                                       outer = forward ? x.rows : x.cols;
                    Array in = zeros({inner, inner});
                    for (std::int64_t i = 0; i < inner; ++i) in.set(i * (inner + 1), 1.0f);
                    const Compute run = [&](Backend& b, Memory& m) {
                        WeightView view = w.view(m);
                        view.row_factors = m.put(factors).as<float>();
                        const GemmTerm term{
                            m.put(in), b.pack(view, way, dtype,
                                              m.raw(b.packed_bytes(x.rows, x.cols, way, dtype)))};
                        const Tensor c = m.fresh({inner, outer});
                        b.gemm({&term, 1}, Tensor(), c, false);
                        return std::vector{m.get(c)};
                    };
                    expect_reference(run, 0);
                }
            }
        }
    }
}

TEST_P(Magnitudes, PartsOfAWeightHaveTheirOwnRowsFactors) {
    const Weight w = quantized_weight(5, 40, 33, kNf4Double, 1.0f);
    const Array factors = random(6, {40});
    Array eye = zeros({33, 33});  // reads the weight back, whatever the kernel
    for (std::int64_t i = 0; i < 33; ++i) eye.set(i * 34, 1.0f);
    const auto backend = make();
    const auto product = [&](std::int64_t first, std::int64_t count) {
        return run_on(*backend, [&](Backend& b, Memory& m) {
            WeightView whole = w.view(m);
            whole.row_factors = m.put(factors).as<float>();
            const GemmTerm term{
                m.put(eye),
                b.pack(qshard::rows_of(whole, first, count), Orientation::kForward, DType::kF32,
                       m.raw(b.packed_bytes(count, 33, Orientation::kForward, DType::kF32)))};
            const Tensor c = m.fresh({33, count});
            b.gemm({&term, 1}, Tensor(), c, false);
            return std::vector{m.get(c)};
        })[0];
    };
    const Array whole = product(0, 40), part = product(11, 20);
    for (std::int64_t i = 0; i < part.count(); ++i)
        ASSERT_EQ(part.at(i), whole.at(i / 20 * 40 + 11 + i % 20)) << i;
}

TEST_P(Magnitudes, NormsOfAdaptedRows) {
    for (const Shape& x : kShapes) {
        const Array a = random(4, {x.r, x.cols}), b = random(5, {x.rows, x.r});
        const Array magnitude = random(6, {x.rows});
        for (const Weight& w : weights_of(x)) {
            SCOPED_TRACE(fmt::format("{} x {} {}", x.rows, x.cols, static_cast<int>(w.storage)));
            const Compute run = [&](Backend& backend, Memory& m) {
                WeightView view = w.view(m);
                view.row_factors = m.put(magnitude).as<float>();  // not looked at
                const Tensor down = m.put(a), up = m.put(b);
                const Tensor norms = m.fresh({x.rows}), factors = m.fresh({x.rows});
                backend.row_norms(view, down, up, 0.75f, Tensor(), norms);
                backend.row_norms(view, down, up, 0.75f, m.put(magnitude), factors);
                return std::vector{m.get(norms), m.get(factors)};
            };
            // A sum of r products in fp32 where the reference has double, for each element.
            expect_reference(run, 0, 8 * kEps32 * (1 + std::sqrt(static_cast<double>(x.r))));
        }
    }
}

TEST_P(Magnitudes, WithoutAnAdapterTheFactorIsExactlyOne) {
    const Weight w = quantized_weight(3, 50, 200, kNf4Double, 0.5f);
    const auto backend = make(2);
    const Array factors = run_on(*backend, [&](Backend& b, Memory& m) {
        const Tensor a = m.put(random(1, {4, 200})), none = m.fresh({50, 4});
        const Tensor norms = m.fresh({50}), result = m.fresh({50});
        b.row_norms(w.view(m), a, none, 2.0f, Tensor(), norms);
        b.row_norms(w.view(m), a, none, 2.0f, norms, result);
        return std::vector{m.get(result)};
    })[0];
    for (std::int64_t o = 0; o < 50; ++o) ASSERT_EQ(factors.at(o), 1.0f) << o;
}

TEST_P(Magnitudes, ARowOfZerosStaysOne) {
    Weight w = plain_weight(1, 3, 20, DType::kF32, 0.5f);
    for (std::int64_t i = 20; i < 40; ++i) w.plain.set(i, 0.0f);
    const auto backend = make();
    const Array factors = run_on(*backend, [&](Backend& b, Memory& m) {
        const Tensor result = m.fresh({3});
        b.row_norms(w.view(m), m.put(random(1, {2, 20})), m.fresh({3, 2}), 1.0f,
                    m.put(random(2, {3})), result);
        return std::vector{m.get(result)};
    })[0];
    EXPECT_EQ(factors.at(1), 0.0f);
    EXPECT_NE(factors.at(0), 0.0f);
}

TEST_P(Magnitudes, BackwardMatchesReference) {
    for (const auto& [n, out, r] : std::vector<std::array<std::int64_t, 3>>{
             {1, 1, 1}, {7, 33, 3}, {200, 100, 8}, {513, 577, 16}}) {
        for (const DType dy_dtype : {DType::kF32, DType::kBF16}) {
            for (const DType y_dtype : {DType::kF32, DType::kBF16}) {
                for (const bool biased : {false, true}) {
                    SCOPED_TRACE(fmt::format("n {} out {} r {} bias {}", n, out, r, biased));
                    // Sums of order 1: an error of k * eps * sqrt(length).
                    const float unit = 3.0f / std::sqrt(static_cast<float>(n));
                    const Array dy = random(1, {n, out}, dy_dtype, unit),
                                y = random(2, {n, out}, y_dtype);
                    const Array bias = random(3, {out}), factor = random(5, {out});
                    const Array db = random(6, {out, r});
                    Array magnitude = random(4, {out});
                    for (std::int64_t o = 0; o < out; ++o) {
                        const float sign = magnitude.at(o) < 0 ? -1.0f : 1.0f;
                        magnitude.set(o, o == 1 ? 0.0f : magnitude.at(o) + sign);
                    }
                    const Compute run = [&](Backend& b, Memory& m) {
                        const Tensor d = m.put(db), dm = m.fresh({out});
                        b.magnitude_backward(m.put(dy), m.put(y), biased ? m.put(bias) : Tensor(),
                                             m.put(magnitude), m.put(factor), d, dm);
                        return std::vector{m.get(dm), m.get(d)};
                    };
                    expect_reference(run, 8 * kEps32 * std::sqrt(static_cast<double>(n)),
                                     4 * kEps32);
                }
            }
        }
    }
}

TEST_P(Magnitudes, BackwardIsTheGradient) {
    // y = (magnitude / norm) x (W + s B A)^T + bias with the norm held constant.
    const std::int64_t out = 19, in = 23, r = 4;
    const Weight w = quantized_weight(1, out, in, kNf4Double, 0.5f);
    const Array x = random(2, {6, in}), a = random(3, {r, in}), b = random(4, {out, r});
    const Array weights = random(5, {6, out}), bias = random(6, {out});
    Array magnitude = random(7, {out});
    for (std::int64_t o = 0; o < out; ++o) magnitude.set(o, magnitude.at(o) + 2.0f);
    const auto backend = make();
    const Array norms = run_on(*backend, [&](Backend& device, Memory& m) {
        const Tensor result = m.fresh({out});
        device.row_norms(w.view(m), m.put(a), m.put(b), 0.5f, Tensor(), result);
        return std::vector{m.get(result)};
    })[0];
    const auto forward = [&](const Array& up, const Array& lengths, bool backward) {
        return run_on(*backend, [&](Backend& device, Memory& m) {
            Array factors = zeros({out});
            for (std::int64_t o = 0; o < out; ++o) factors.set(o, lengths.at(o) / norms.at(o));
            WeightView view = w.view(m), adapter;
            view.row_factors = adapter.row_factors = m.put(factors).as<float>();
            adapter.rows = out;
            adapter.cols = r;
            adapter.plain = m.put(up);
            adapter.scale = 0.5f;
            const auto pack = [&](const WeightView& v) {
                return device.pack(
                    v, Orientation::kForward, DType::kF32,
                    m.raw(device.packed_bytes(v.rows, v.cols, Orientation::kForward, DType::kF32)));
            };
            WeightView down;
            down.rows = r;
            down.cols = in;
            down.plain = m.put(a);
            const Tensor u = m.fresh({6, r}), y = m.fresh({6, out}), input = m.put(x);
            const GemmTerm first{input, pack(down)};
            device.gemm({&first, 1}, Tensor(), u, false);
            const GemmTerm terms[] = {{input, pack(view)}, {u, pack(adapter)}};
            device.gemm(terms, m.put(bias), y, false);
            if (!backward) return std::vector{m.get(y)};
            const Tensor db = m.fresh({out, r}), dm = m.fresh({out}), dy = m.put(weights);
            device.gemm_rows(u, dy, 0.5f, DType::kF32, db, true, false);
            device.magnitude_backward(dy, y, m.put(bias), m.put(lengths), m.put(factors), db, dm);
            return std::vector{m.get(db), m.get(dm)};
        });
    };
    const auto gradients = forward(b, magnitude, true);
    expect_gradient([&](const Array& at) { return dot(weights, forward(at, magnitude, false)[0]); },
                    b, gradients[0], 0.5f, 1e-5);
    expect_gradient([&](const Array& at) { return dot(weights, forward(b, at, false)[0]); },
                    magnitude, gradients[1], 0.5f, 1e-5);
}

}  // namespace
}  // namespace qshard::ops
