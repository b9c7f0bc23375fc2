#include "ops.h"

namespace qshard::ops {
namespace {

class Rows : public Ops {};
QSHARD_OPS_SUITE(Rows);

constexpr DType kBoth[] = {DType::kF32, DType::kBF16};

TEST_P(Rows, RmsNorm) {
    for (const auto& [rows, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {3, 7}, {70, 576}, {5, 64}, {2, 1030}}) {
        for (DType in : kBoth) {
            for (DType out : kBoth) {
                for (bool offset : {false, true}) {
                    const Array x = random(1, {rows, width}, in), gain = random(2, {width});
                    const Compute run = [&](Backend& b, Memory& m) {
                        const Tensor y = m.fresh(x.shape, out);
                        b.rms_norm(m.put(x), m.put(gain), 1e-5f, offset, y);
                        return std::vector{m.get(y)};
                    };
                    expect_reference(run, 8 * kEps32, out == DType::kBF16 ? kEps16 : 4 * kEps32);
                }
            }
        }
    }
}

TEST_P(Rows, RmsNormOfHeadsInPlace) {
    const Array x = random(1, {10, 3, 40}, DType::kBF16), gain = random(2, {40});
    expect_reference(
        [&](Backend& b, Memory& m) {
            const Tensor y = m.put(x);
            b.rms_norm(y, m.put(gain), 1e-6f, false, y);
            return std::vector{m.get(y)};
        },
        8 * kEps32, kEps16);
}

TEST_P(Rows, RmsNormBackward) {
    for (std::int64_t width : {1, 9, 64, 577}) {
        for (DType dtype : kBoth) {
            for (bool accumulate : {false, true}) {
                const Array x = random(1, {11, width}, dtype), gain = random(2, {width});
                const Array dy = random(3, {11, width}, dtype), start = random(4, {11, width});
                const Compute run = [&](Backend& b, Memory& m) {
                    const Tensor dx = m.put(start);
                    b.rms_norm_backward(m.put(x), m.put(gain), 1e-5f, true, m.put(dy), dx,
                                        accumulate);
                    return std::vector{m.get(dx)};
                };
                // The reference's mean is a float sum.
                expect_reference(run, 64 * kEps32 * std::sqrt(static_cast<double>(width)),
                                 16 * kEps32);
            }
        }
    }
    const Array x = random(1, {3, 20}), gain = random(2, {20}), dy = random(3, {3, 20});
    const auto backend = make();
    const Array dx = run_on(*backend, [&](Backend& b, Memory& m) {
        const Tensor aliased = m.put(dy);
        b.rms_norm_backward(m.put(x), m.put(gain), 1e-5f, false, aliased, aliased, false);
        return std::vector{m.get(aliased)};
    })[0];
    auto loss = [&](const Array& at) {
        return dot(dy, run_on(*backend, [&](Backend& b, Memory& m) {
                       const Tensor y = m.fresh({3, 20});
                       b.rms_norm(m.put(at), m.put(gain), 1e-5f, false, y);
                       return std::vector{m.get(y)};
                   })[0]);
    };
    expect_gradient(loss, x, dx, 0.01f, 1e-3);
}

/// Values around 3: the mean is larger than the spread.
Array shifted(std::uint64_t seed, std::vector<std::int64_t> shape, DType dtype) {
    Array x = random(seed, std::move(shape), dtype);
    for (std::int64_t i = 0; i < x.count(); ++i) x.set(i, x.at(i) + 3.0f);
    return x;
}

TEST_P(Rows, LayerNorm) {
    for (const auto& [rows, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {3, 7}, {70, 576}, {5, 64}, {2, 1030}}) {
        for (DType in : kBoth) {
            for (DType out : kBoth) {
                const Array x = shifted(1, {rows, width}, in);
                const Array gain = random(2, {width}), bias = random(3, {width});
                const Compute run = [&](Backend& b, Memory& m) {
                    const Tensor y = m.fresh(x.shape, out), aliased = m.put(x);
                    b.layer_norm(m.put(x), m.put(gain), m.put(bias), 1e-5f, y);
                    b.layer_norm(aliased, m.put(gain), m.put(bias), 1e-5f, aliased);
                    return std::vector{m.get(y), m.get(aliased)};
                };
                // The mean is rounded to fp32 before it is subtracted: 4 eps / spread.
                const bool rounds = in == DType::kBF16 || out == DType::kBF16;
                expect_reference(run, 64 * kEps32, rounds ? kEps16 : 8 * kEps32);
            }
        }
    }
}

TEST_P(Rows, LayerNormBackward) {
    for (std::int64_t width : {1, 9, 64, 577}) {
        for (DType dtype : kBoth) {
            for (bool accumulate : {false, true}) {
                const Array x = shifted(1, {11, width}, dtype), gain = random(2, {width});
                const Array dy = random(3, {11, width}, dtype), start = random(4, {11, width});
                const Compute run = [&](Backend& b, Memory& m) {
                    const Tensor dx = m.put(start);
                    b.layer_norm_backward(m.put(x), m.put(gain), 1e-5f, m.put(dy), dx, accumulate);
                    return std::vector{m.get(dx)};
                };
                expect_reference(run, 256 * kEps32, 16 * kEps32);
            }
        }
    }
    const Array x = shifted(1, {3, 20}, DType::kF32), gain = random(2, {20});
    const Array bias = random(5, {20}), dy = random(3, {3, 20});
    const auto backend = make();
    const Array dx = run_on(*backend, [&](Backend& b, Memory& m) {
        const Tensor aliased = m.put(dy);
        b.layer_norm_backward(m.put(x), m.put(gain), 1e-5f, aliased, aliased, false);
        return std::vector{m.get(aliased)};
    })[0];
    auto loss = [&](const Array& at) {
        return dot(dy, run_on(*backend, [&](Backend& b, Memory& m) {
                       const Tensor y = m.fresh({3, 20});
                       b.layer_norm(m.put(at), m.put(gain), m.put(bias), 1e-5f, y);
                       return std::vector{m.get(y)};
                   })[0]);
    };
    expect_gradient(loss, x, dx, 0.01f, 1e-3);
}

TEST_P(Rows, Rope) {
    // Partial rotation; the inverse is the transpose.
    const std::vector<std::int32_t> positions = {3, 0, 9, 4, 4};
    for (const auto& [width, half] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{64, 32}, {10, 3}, {40, 20}}) {
        for (DType dtype : kBoth) {
            const Array x = random(1, {5, 3, width}, dtype);
            const Array c = random(2, {10, half}), s = random(3, {10, half});
            for (bool inverse : {false, true}) {
                const Compute run = [&](Backend& b, Memory& m) {
                    const Tensor y = m.put(x);
                    b.rope(y, positions, m.put(c), m.put(s), inverse);
                    return std::vector{m.get(y)};
                };
                expect_reference(run, 4 * kEps32, dtype == DType::kBF16 ? kEps16 : 0);
            }
        }
    }
    const Array x = random(1, {5, 2, 12}), weights = random(4, {5, 2, 12});
    const Array c = random(2, {10, 4}), s = random(3, {10, 4});
    const auto backend = make();
    auto rotate = [&](const Array& at, bool inverse) {
        return run_on(*backend, [&](Backend& b, Memory& m) {
            const Tensor y = m.put(at);
            b.rope(y, positions, m.put(c), m.put(s), inverse);
            return std::vector{m.get(y)};
        })[0];
    };
    expect_gradient([&](const Array& at) { return dot(weights, rotate(at, false)); }, x,
                    rotate(weights, true), 0.5f, 1e-5);
}

TEST_P(Rows, Activate) {
    for (Activation kind :
         {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf, Activation::kRelu}) {
        for (bool gated : {false, true}) {
            for (DType dtype : kBoth) {
                SCOPED_TRACE(fmt::format("kind {} gated {}", static_cast<int>(kind), gated));
                const Array g = random(1, {7, 131}, dtype, 9.0f), u = random(2, {7, 131}, dtype, 3);
                const Array d = random(3, {7, 131}, dtype);
                const Compute run = [&](Backend& b, Memory& m) {
                    const Tensor gate = gated ? m.put(g) : Tensor(), up = m.put(u);
                    const Tensor out = m.fresh(u.shape, dtype);
                    b.activate(kind, gate, up, out);
                    const Tensor dgate = m.fresh(u.shape), dup = m.fresh(u.shape, dtype);
                    b.activate_backward(kind, gate, up, m.put(d), dgate, dup);
                    b.activate(kind, gate, up, up);  // in place
                    return std::vector{m.get(out), m.get(dgate), m.get(dup), m.get(up)};
                };
                // Silu and gelu cancel near zero slopes: an absolute error of their factors.
                expect_reference(run, 128 * kEps32, dtype == DType::kBF16 ? kEps16 : 16 * kEps32);
            }
        }
    }
}

TEST_P(Rows, ActivateGradient) {
    const Array gate = random(1, {60}, DType::kF32, 4), up = random(2, {60}), d = random(3, {60});
    const auto backend = make();
    for (Activation kind : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
        const auto gradients = run_on(*backend, [&](Backend& b, Memory& m) {
            const Tensor g = m.put(gate), u = m.put(up);
            b.activate_backward(kind, g, u, m.put(d), g, u);
            return std::vector{m.get(g), m.get(u)};
        });
        auto loss = [&](const Array& g, const Array& u) {
            return dot(d, run_on(*backend, [&](Backend& b, Memory& m) {
                           const Tensor out = m.fresh({60});
                           b.activate(kind, m.put(g), m.put(u), out);
                           return std::vector{m.get(out)};
                       })[0]);
        };
        expect_gradient([&](const Array& at) { return loss(at, up); }, gate, gradients[0], 0.02f,
                        1e-3);
        expect_gradient([&](const Array& at) { return loss(gate, at); }, up, gradients[1], 0.02f,
                        1e-3);
    }
}

TEST_P(Rows, ExtremeActivationsStayFinite) {
    Array x = zeros({8});
    const float values[] = {-1e30f, -200.0f, -88.0f, -0.0f, 1e-30f, 88.5f, 200.0f, 1e4f};
    for (std::int64_t i = 0; i < 8; ++i) x.set(i, values[i]);
    for (Activation kind : {Activation::kSilu, Activation::kGeluErf, Activation::kRelu}) {
        const Compute run = [&](Backend& b, Memory& m) {
            const Tensor out = m.fresh({8});
            b.activate(kind, Tensor(), m.put(x), out);
            return std::vector{m.get(out)};
        };
        expect_reference(run, 1e-30, 8 * kEps32);
    }
}

TEST_P(Rows, LogSoftmax) {
    const std::vector<std::int32_t> targets = {0, 13, 4, 99, 50};
    for (std::int64_t width : {100, 1001}) {
        for (float softcap : {0.0f, 3.0f}) {
            for (bool derivative : {false, true}) {
                const Array logits = random(1, {5, width}, DType::kF32, 8);
                const Array d = random(2, {5});
                const Compute run = [&](Backend& b, Memory& m) {
                    const Tensor z = m.put(logits), logprob = m.fresh({5});
                    b.log_softmax(z, targets, 0.5f, softcap, derivative ? m.put(d) : Tensor(),
                                  logprob);
                    return std::vector{m.get(z), m.get(logprob)};
                };
                expect_reference(run, 32 * kEps32, 16 * kEps32);
            }
        }
    }
}

TEST_P(Rows, LogSoftmaxGradient) {
    const std::vector<std::int32_t> targets = {2, 13};
    const Array logits = random(1, {2, 20}, DType::kF32, 2), d = random(2, {2});
    const auto backend = make();
    for (float softcap : {0.0f, 3.0f}) {
        auto logprob = [&](const Array& at, bool derivative, std::size_t which) {
            return run_on(*backend, [&](Backend& b, Memory& m) {
                const Tensor z = m.put(at), result = m.fresh({2});
                b.log_softmax(z, targets, 0.7f, softcap, derivative ? m.put(d) : Tensor(), result);
                return std::vector{m.get(z), m.get(result)};
            })[which];
        };
        expect_gradient([&](const Array& at) { return dot(d, logprob(at, false, 1)); }, logits,
                        logprob(logits, true, 0), 0.01f, 1e-3);
    }
}

TEST_P(Rows, EmbedGatherScatterCopyAdd) {
    const std::vector<std::int32_t> ids = {4, 0, 4, 18, 7}, rows = {3, 0, 11};
    for (DType dtype : kBoth) {
        const Array table = random(1, {19, 37}, dtype), x = random(2, {3, 37}, dtype);
        const Compute run = [&](Backend& b, Memory& m) {
            const Tensor in = m.put(table), embedded = m.fresh({5, 37});
            b.embed(in, ids, 1.5f, embedded);
            const Tensor picked = m.fresh({3, 37}, DType::kBF16);
            b.gather_rows(in, rows, picked);
            const Tensor spread = m.put(random(3, {12, 37}));
            b.scatter_rows(m.put(x), rows, spread);
            const Tensor copied = m.fresh({19, 37}, DType::kBF16);
            b.copy(in, copied);
            const Tensor sum = m.put(random(4, {19, 37}));
            b.add(in, 0.3f, sum);
            const Tensor nothing = m.put(random(5, {19, 37}));
            b.fill_zero(nothing);
            const Tensor collected = m.put(random(6, {19, 37}));
            b.embed_backward(m.put(random(7, {6, 37})), {{4, 0, 4, -1, 18, 4}}, 1.5f, collected);
            return std::vector{m.get(embedded), m.get(picked),  m.get(spread),   m.get(copied),
                               m.get(sum),      m.get(nothing), m.get(collected)};
        };
        expect_reference(run, kEps32);
    }
}

TEST_P(Rows, Dropout) {
    const DropoutMask mask{7, 1, 2, 3, DropoutMask::dropped_at(0.3)};
    for (std::int64_t count : {1, 37, 70001}) {
        for (DType dtype : kBoth) {
            const Array x = random(1, {count}, dtype);
            const Compute run = [&](Backend& b, Memory& m) {
                const Tensor in = m.put(x), dropped = m.fresh({count}, dtype);
                b.dropout(mask, in, false, dropped);
                const Tensor sum = m.put(random(2, {count}));
                b.dropout(mask, in, true, sum);
                b.dropout(mask, in, false, in);
                expect_same_bits(m.get(in), m.get(dropped), "in place");
                return std::vector{m.get(dropped), m.get(sum)};
            };
            expect_reference(run, 0);
        }
    }
}

TEST_P(Rows, RowsOfExperts) {
    const std::vector<std::int32_t> rows = {8, 0, 3};
    const std::vector<float> factors = {0.5f, -1.25f, 0.1f};
    for (std::int64_t width : {1, 37, 256}) {
        for (DType dtype : kBoth) {
            const Array x = random(1, {3, width}, dtype), y = random(2, {3, width}, dtype);
            const Compute run = [&](Backend& b, Memory& m) {
                const Tensor sums = m.put(random(3, {9, width})), scaled = m.put(x);
                b.add_rows(m.put(x), rows, factors, sums);
                b.scale_rows(scaled, factors);
                const Tensor dots = m.fresh({3});
                b.row_dots(m.put(x), m.put(y), dots);
                return std::vector{m.get(sums), m.get(scaled), m.get(dots)};
            };
            expect_reference(run, kEps32, dtype == DType::kBF16 ? kEps16 : 2 * kEps32);
        }
    }
}

/// Lists come from the host; a device keeps some of them for the next calls.
TEST_P(Rows, ListsThatComeAgainAreReadAsTheyAre) {
    constexpr std::int64_t kCalls = 500;
    const std::vector<std::vector<std::int32_t>> often = {{3, 0, 11}, {3, 0, 12}, {5}};
    const Array table = random(1, {97, 8});
    const auto lists = [&](std::int64_t call) {
        const auto n = static_cast<std::int32_t>(call);
        return call % 4 < 3 ? std::vector<std::int32_t>{n % 97, n / 97, n % 13}
                            : often[static_cast<std::size_t>(call / 4 % 3)];
    };
    const std::vector<Array> picked = run_on(*make(), [&](Backend& b, Memory& m) {
        const Tensor in = m.put(table);
        std::vector<Tensor> out;
        for (std::int64_t call = 0; call < kCalls; ++call) {
            const std::vector<std::int32_t> rows = lists(call);
            out.push_back(m.fresh({std::ssize(rows), 8}));
            b.gather_rows(in, rows, out.back());
        }
        std::vector<Array> values;
        for (const Tensor& tensor : out) values.push_back(m.get(tensor));
        return values;
    });
    ASSERT_EQ(picked.size(), static_cast<std::size_t>(kCalls));
    for (std::int64_t call = 0; call < kCalls; ++call) {
        const std::vector<std::int32_t> rows = lists(call);
        const Array& found = picked[static_cast<std::size_t>(call)];
        for (std::int64_t i = 0; i < found.count(); ++i) {
            const std::int64_t row = rows[static_cast<std::size_t>(i / 8)];
            ASSERT_EQ(found.at(i), table.at(row * 8 + i % 8)) << call;
        }
    }
}

TEST_P(Rows, ShapesThatDoNotFitAreBugs) {
    const auto backend = make();
    Memory m(*backend);
    const Tensor x = m.fresh({2, 8}), y = m.fresh({2, 9});
    EXPECT_THROW(backend->copy(x, y), BugError);
    EXPECT_THROW(backend->rms_norm(x, m.fresh({3}), 1e-5f, false, x), BugError);
    const std::int32_t beyond[] = {2};
    EXPECT_THROW(backend->gather_rows(x, beyond, m.fresh({1, 8})), BugError);
}

}  // namespace
}  // namespace qshard::ops
