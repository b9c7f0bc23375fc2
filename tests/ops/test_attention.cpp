#include "ops.h"

namespace qshard::ops {
namespace {

struct Case {
    const char* what;
    std::int64_t heads, kv_heads, width;
    float softcap;
    std::int64_t window;
    std::vector<AttentionSequence> sequences;
    DType dtype;
};

std::vector<AttentionSequence> documents(std::initializer_list<std::int64_t> lengths) {
    std::vector<AttentionSequence> all;
    std::int64_t at = 0;
    for (std::int64_t length : lengths) {
        all.push_back({at, length, at, length});
        at += length;
    }
    return all;
}

/// Whole documents: forward and backward.
std::vector<Case> training_cases() {
    return {
        {"one token", 2, 1, 16, 0, 0, documents({1}), DType::kF32},
        {"grouped keys", 6, 2, 64, 0, 0, documents({130}), DType::kF32},
        {"bf16, three documents", 3, 1, 64, 0, 0, documents({5, 100, 97}), DType::kBF16},
        {"every head its keys, odd width", 3, 3, 40, 0, 0, documents({77}), DType::kF32},
        {"soft cap", 4, 2, 32, 5.0f, 0, documents({111}), DType::kF32},
        {"window", 4, 2, 24, 0, 17, documents({150, 12}), DType::kF32},
        {"window beyond a key block, soft cap, bf16", 2, 1, 80, 30.0f, 120, documents({260}),
         DType::kBF16},
        {"wide head", 2, 1, 256, 0, 0, documents({60}), DType::kBF16},
    };
}

struct Shapes {
    std::int64_t q_rows = 0, k_rows = 0;
    explicit Shapes(const Case& x) {
        for (const AttentionSequence& s : x.sequences) {
            q_rows = std::max(q_rows, s.q_begin + s.q_count);
            k_rows = std::max(k_rows, s.k_begin + s.k_count);
        }
    }
};

AttentionShape shape_of(const Case& x) {
    AttentionShape s;
    s.heads = x.heads;
    s.kv_heads = x.kv_heads;
    s.head_width = x.width;
    s.scale = 1.5f / std::sqrt(static_cast<float>(x.width));
    s.softcap = x.softcap;
    s.window = x.window;
    s.sequences = x.sequences;
    return s;
}

struct Inputs {
    Array q, k, v, dout;
    explicit Inputs(const Case& x) {
        const Shapes n(x);
        q = random(1, {n.q_rows, x.heads * x.width}, x.dtype, 2.0f);
        k = random(2, {n.k_rows, x.kv_heads * x.width}, x.dtype, 2.0f);
        v = random(3, {n.k_rows, x.kv_heads * x.width}, x.dtype);
        dout = random(4, {n.q_rows, x.heads * x.width}, x.dtype);
    }
};

/// Results out and lse.
std::vector<Array> forward(Backend& b, Memory& memory, const Case& x, const Inputs& in) {
    const Tensor q = memory.put(in.q);
    const Tensor out = memory.fresh(in.q.shape, x.dtype);
    const Tensor lse = memory.fresh({in.q.shape[0], x.heads});
    b.attention(shape_of(x), q, memory.put(in.k), memory.put(in.v), out, lse);
    return {memory.get(out), memory.get(lse)};
}

class Attention : public Ops {
  public:
    /// k * eps * sqrt(length) for scores of width 256; bf16 probabilities add their rounding.
    double tolerance(const Case& x, double magnitude) const {
        const bool coarse = coarse_attention() && x.dtype == DType::kBF16;
        return magnitude * (64 * kEps32 * 16 + (coarse ? kEps16 : 0));
    }
};
QSHARD_OPS_SUITE(Attention);

TEST_P(Attention, ForwardMatchesReference) {
    std::vector<Case> cases = training_cases();
    cases.push_back({"decode",
                     6,
                     2,
                     64,
                     0,
                     0,
                     {{0, 1, 0, 200}, {1, 1, 200, 1}, {2, 3, 201, 99}},
                     DType::kBF16});
    cases.push_back({"continued prefill, window", 4, 1, 32, 0, 50, {{0, 70, 0, 170}}, DType::kF32});
    for (const Case& x : cases) {
        SCOPED_TRACE(x.what);
        const Inputs in(x);
        expect_reference([&](Backend& b, Memory& m) { return forward(b, m, x, in); },
                         // One that rounds the other way is one ulp off.
                         tolerance(x, 2), x.dtype == DType::kBF16 ? 2 * kEps16 : 0);
    }
}

TEST_P(Attention, BackwardMatchesReference) {
    for (const Case& x : training_cases()) {
        SCOPED_TRACE(x.what);
        const Inputs in(x);
        const auto reference = make_reference_backend();
        const std::vector<Array> saved =
            run_on(*reference, [&](Backend& b, Memory& m) { return forward(b, m, x, in); });
        expect_reference(
            [&](Backend& b, Memory& m) {
                const Tensor dq = m.put(random(9, in.q.shape)), dk = m.put(random(9, in.k.shape)),
                             dv = m.put(random(9, in.v.shape));
                b.attention_backward(shape_of(x), m.put(in.q), m.put(in.k), m.put(in.v),
                                     m.put(saved[0]), m.put(saved[1]), m.put(in.dout), dq, dk, dv);
                return std::vector{m.get(dq), m.get(dk), m.get(dv)};
            },
            // delta comes from the rounded output; a key sums over its group and its queries.
            tolerance(x, 8) + (x.dtype == DType::kBF16 ? 4 * kEps16 : 0), kEps16 / 8);
    }
}

TEST_P(Attention, RowsDoNotDependOnTheCall) {
    // Prefill at once, in two parts, or token by token: the same bits.
    for (DType dtype : {DType::kF32, DType::kBF16}) {
        for (std::int64_t window : {0, 40}) {
            const std::int64_t total = native() ? 230 : 120;
            Case whole{"whole", 6, 2, 48, 0, window, documents({total}), dtype};
            const Inputs in(whole);
            const auto backend = make(2);
            const auto all =
                run_on(*backend, [&](Backend& b, Memory& m) { return forward(b, m, whole, in); });
            for (const auto& [first, count] : std::vector<std::pair<std::int64_t, std::int64_t>>{
                     {0, 1}, {50, 3}, {97, 1}, {60, 60}, {total - 1, 1}}) {
                Case part = whole;
                part.sequences = {{0, count, 0, first + count}};
                Inputs few = in;
                few.q = rows_of(in.q, first, count);
                const auto found = run_on(
                    *backend, [&](Backend& b, Memory& m) { return forward(b, m, part, few); });
                for (int r : {0, 1}) {
                    expect_same_bits(
                        rows_of(all[static_cast<std::size_t>(r)], first, count),
                        found[static_cast<std::size_t>(r)],
                        fmt::format("queries {} + {}, window {}", first, count, window));
                }
            }
        }
    }
}

TEST_P(Attention, GradientByFiniteDifferences) {
    const Case cases[] = {
        {"grouped", 4, 2, 8, 0, 0, documents({9, 4}), DType::kF32},
        {"soft cap, window", 2, 1, 16, 2.0f, 3, documents({11}), DType::kF32},
    };
    for (const Case& x : cases) {
        SCOPED_TRACE(x.what);
        Inputs in(x);
        const auto backend = make();
        const auto saved =
            run_on(*backend, [&](Backend& b, Memory& m) { return forward(b, m, x, in); });
        const auto gradients = run_on(*backend, [&](Backend& b, Memory& m) {
            const Tensor dq = m.fresh(in.q.shape), dk = m.fresh(in.k.shape),
                         dv = m.fresh(in.v.shape);
            b.attention_backward(shape_of(x), m.put(in.q), m.put(in.k), m.put(in.v),
                                 m.put(saved[0]), m.put(saved[1]), m.put(in.dout), dq, dk, dv);
            return std::vector{m.get(dq), m.get(dk), m.get(dv)};
        });
        Array Inputs::*const members[] = {&Inputs::q, &Inputs::k, &Inputs::v};
        for (std::size_t i = 0; i < 3; ++i) {
            auto loss = [&](const Array& at) {
                Inputs moved = in;
                moved.*members[i] = at;
                return dot(in.dout, run_on(*backend, [&](Backend& b, Memory& m) {
                               return forward(b, m, x, moved);
                           })[0]);
            };
            expect_gradient(loss, in.*members[i], gradients[i], 0.01f, 2e-3);
        }
    }
}

}  // namespace
}  // namespace qshard::ops
