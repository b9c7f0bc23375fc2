#include "ops.h"

namespace qshard::ops {
namespace {

class Optimizer : public Ops {};
QSHARD_OPS_SUITE(Optimizer);

constexpr std::int64_t kCount = 70001;

TEST_P(Optimizer, SumOfSquaresIsTheSpecifiedSum) {
    // The order is part of the interface: equality.
    for (std::int64_t count : {1, 4095, 4097, 70001, 500000}) {
        const Array x = random(1, {count});
        auto sum = [&](Backend& b) {
            Memory m(b);
            return b.sum_of_squares(m.put(x));
        };
        const auto reference = make_reference_backend();
        EXPECT_EQ(sum(*make(1)), sum(*reference));
        EXPECT_EQ(sum(*make(3)), sum(*reference));
    }
}

TEST_P(Optimizer, SameBitsAsReference) {
    const Array start = random(1, {kCount}), g = random(2, {kCount}, DType::kF32, 0.01f);
    const Compute run = [&](Backend& b, Memory& m) {
        std::vector<Array> results;
        const Tensor gradient = m.put(g);
        b.scale(gradient, 0.37f);
        const Tensor p1 = m.put(start), m1 = m.fresh({kCount}), v1 = m.fresh({kCount});
        const Tensor p2 = m.put(start), m2 = m.fresh({kCount}), p3 = m.put(start);
        const Tensor p4 = m.put(start), s4 = m.fresh({kCount}), m4 = m.fresh({kCount});
        for (std::int64_t step = 1; step <= 3; ++step) {
            b.adamw({1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, step}, p1, gradient, m1, v1);
            b.sgd({1e-2f, 0.9f, 0.001f, step}, p2, gradient, m2);
            b.sgd({1e-2f, 0.0f, 0.0f, step}, p3, gradient, Tensor());
            b.rmsprop({1e-3f, 0.99f, 1e-8f, 0.0f, 0.5f}, p4, gradient, s4, m4);
        }
        for (const Tensor& x : {gradient, p1, m1, v1, p2, m2, p3, p4, s4, m4}) {
            results.push_back(m.get(x));
        }
        return results;
    };
    const auto reference = make_reference_backend();
    const std::vector<Array> want = run_on(*reference, run);
    for (int threads : {1, 2}) {
        const std::vector<Array> found = run_on(*make(threads), run);
        for (std::size_t i = 0; i < want.size(); ++i) {
            expect_same_bits(want[i], found[i], fmt::format("result {}", i));
        }
    }
}

}  // namespace
}  // namespace qshard::ops
