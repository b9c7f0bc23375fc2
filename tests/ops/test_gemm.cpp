#include <array>

#include "weights.h"

namespace qshard::ops {
namespace {

/// Operands are scaled so that results are of order 1: an error of k * eps * sqrt(length).
float unit_scale(std::int64_t length) {
    return 3.0f / std::sqrt(static_cast<float>(length));
}
double gemm_tolerance(std::int64_t length) {
    return 8 * kEps32 * std::sqrt(static_cast<double>(length)) + 1e-6;
}

struct GemmCase {
    std::int64_t m, n, k;
    DType a, c;
};
const GemmCase kGemmCases[] = {
    {1, 16, 8, DType::kF32, DType::kF32},     {1, 1, 1, DType::kF32, DType::kF32},
    {3, 33, 65, DType::kBF16, DType::kF32},   {7, 100, 129, DType::kF32, DType::kBF16},
    {40, 70, 31, DType::kBF16, DType::kBF16}, {101, 64, 801, DType::kBF16, DType::kF32},
    {8, 300, 64, DType::kF32, DType::kF32},   {197, 35, 40, DType::kBF16, DType::kBF16},
};

class Gemm : public Ops {};
QSHARD_OPS_SUITE(Gemm);

TEST_P(Gemm, PlainWeightBothWaysBothDtypes) {
    for (const GemmCase& x : kGemmCases) {
        for (DType dtype : {DType::kF32, DType::kBF16}) {
            for (Orientation way : {Orientation::kForward, Orientation::kBackward}) {
                SCOPED_TRACE(fmt::format("m {} n {} k {} {} way {}", x.m, x.n, x.k, name_of(dtype),
                                         static_cast<int>(way)));
                const bool forward = way == Orientation::kForward;
                const Array a = random(1, {x.m, x.k}, x.a);
                const Weight w = plain_weight(2, forward ? x.n : x.k, forward ? x.k : x.n, x.a,
                                              unit_scale(x.k), 0.75f);
                const Array bias = random(3, {x.n});
                const Compute run = [&](Backend& b, Memory& memory) {
                    const GemmTerm term{memory.put(a), packed(b, memory, w, way, dtype)};
                    const Tensor c = memory.fresh({x.m, x.n}, x.c);
                    b.gemm({&term, 1}, memory.put(bias), c, false);
                    return std::vector{memory.get(c)};
                };
                expect_reference(run, gemm_tolerance(x.k), x.c == DType::kBF16 ? kEps16 : 0);
            }
        }
    }
}

TEST_P(Gemm, QuantizedWeight) {
    // Odd widths: blocks cross rows, and rows begin in the low nibble.
    for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {64, 64}, {35, 97}, {96, 576}, {576, 130}, {1, 7}, {1040, 33}}) {
        for (const WeightForm form : kForms) {
            for (Orientation way : {Orientation::kForward, Orientation::kBackward}) {
                const bool forward = way == Orientation::kForward;
                const std::int64_t inner = forward ? cols : rows, outer = forward ? rows : cols;
                const Weight w = quantized_weight(5, rows, cols, form, unit_scale(inner));
                const Array a = random(6, {5, inner}, DType::kBF16);
                for (DType dtype : {DType::kF32, DType::kBF16}) {
                    SCOPED_TRACE(fmt::format("{} x {} {} way {} {}", rows, cols, describe(form),
                                             static_cast<int>(way), name_of(dtype)));
                    const Compute run = [&](Backend& b, Memory& memory) {
                        const GemmTerm term{memory.put(a), packed(b, memory, w, way, dtype)};
                        const Tensor c = memory.fresh({5, outer});
                        b.gemm({&term, 1}, Tensor(), c, false);
                        return std::vector{memory.get(c)};
                    };
                    expect_reference(run, gemm_tolerance(inner));
                }
            }
        }
    }
}

TEST_P(Gemm, AWeightPackedAloneServesBothWays) {
    for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {64, 64}, {35, 96}, {257, 40}, {48, 33}, {1, 8}}) {
        const Weight w = quantized_weight(5, rows, cols, kNf4Double, unit_scale(rows + cols));
        const Array x = random(6, {5, cols}, DType::kBF16), dy = random(7, {5, rows});
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
            SCOPED_TRACE(fmt::format("{} x {} {}", rows, cols, name_of(dtype)));
            const auto forward = [&](Backend& b, Memory& memory, const Packed& weight) {
                const GemmTerm term{memory.put(x), weight};
                const Tensor y = memory.fresh({5, rows});
                b.gemm({&term, 1}, Tensor(), y, false);
                return memory.get(y);
            };
            const auto pack = [&](Backend& b, Memory& memory, bool backward) {
                return b.pack_alone(w.view(memory), dtype, backward,
                                    memory.raw(b.packed_alone_bytes(rows, cols, dtype, backward)));
            };
            const Compute run = [&](Backend& b, Memory& memory) {
                const PackedPair pair = pack(b, memory, true);
                const GemmTerm term{memory.put(dy), pair.backward};
                const Tensor dx = memory.fresh({5, cols});
                b.gemm({&term, 1}, Tensor(), dx, false);
                return std::vector{forward(b, memory, pair.forward), memory.get(dx)};
            };
            expect_reference(run, gemm_tolerance(rows + cols));
            const auto backend = make();
            Memory memory(*backend);
            expect_same_bits(forward(*backend, memory, pack(*backend, memory, true).forward),
                             forward(*backend, memory, pack(*backend, memory, false).forward),
                             "with and without backward");
        }
    }
}

TEST_P(Gemm, UnpackedByIdentity) {
    // x = identity reads the packed weight back: exact values, whatever the kernel.
    Array eye = zeros({70, 70});
    for (std::int64_t i = 0; i < 70; ++i) eye.set(i * 71, 1.0f);
    for (const auto& [form, dtype] :
         std::vector<std::pair<WeightForm, DType>>{{kNf4Double, DType::kF32},
                                                   {kNf4Double, DType::kBF16},
                                                   {{Storage::kFp4, true}, DType::kF32},
                                                   {{Storage::kInt8, false}, DType::kF32},
                                                   {{Storage::kInt8, false}, DType::kBF16}}) {
        const Weight w = quantized_weight(7, 45, 70, form, 1.0f);
        const Compute run = [&](Backend& b, Memory& memory) {
            const GemmTerm term{memory.put(eye),
                                packed(b, memory, w, Orientation::kForward, dtype)};
            const Tensor c = memory.fresh({70, 45});
            b.gemm({&term, 1}, Tensor(), c, false);
            return std::vector{memory.get(c)};
        };
        const auto reference = make_reference_backend();
        const Array want = run_on(*reference, run)[0], found = run_on(*make(), run)[0];
        for (std::int64_t i = 0; i < want.count(); ++i) ASSERT_EQ(want.at(i), found.at(i)) << i;
    }
}

TEST_P(Gemm, RowsOfAWeightArePackedAsTheWholeIs) {
    // Parts of a fused projection; 33 columns: a part begins inside a block and in a low nibble.
    Array eye = zeros({33, 33});
    for (std::int64_t i = 0; i < 33; ++i) eye.set(i * 34, 1.0f);
    for (const Weight& w : {quantized_weight(7, 520, 33, kNf4Double, 1.0f),
                            quantized_weight(7, 520, 33, {Storage::kNf4, false}, 1.0f),
                            quantized_weight(7, 520, 33, {Storage::kInt8, false}, 1.0f),
                            plain_weight(7, 520, 33, DType::kBF16, 1.0f, 2.0f)}) {
        auto values = [&](std::int64_t first, std::int64_t count) {
            return run_on(*make(), [&](Backend& b, Memory& memory) {
                const WeightView part = qshard::rows_of(w.view(memory), first, count);
                void* destination =
                    memory.raw(b.packed_bytes(count, 33, Orientation::kForward, DType::kF32));
                const GemmTerm term{memory.put(eye),
                                    b.pack(part, Orientation::kForward, DType::kF32, destination)};
                const Tensor columns = memory.fresh({33, count});
                b.gemm({&term, 1}, Tensor(), columns, false);
                return std::vector{memory.get(columns)};
            })[0];
        };
        const Array whole = values(0, 520);
        for (const auto& [first, count] :
             std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {3, 70}, {517, 3}}) {
            const Array part = values(first, count);
            for (std::int64_t i = 0; i < part.count(); ++i) {
                const std::int64_t at = i / count * 520 + first + i % count;
                ASSERT_EQ(part.at(i), whole.at(at)) << first << " " << i;
            }
        }
    }
    EXPECT_THROW(qshard::rows_of(WeightView{}, 0, 1), BugError);
}

TEST_P(Gemm, TermsAddUpInOrderAndAccumulate) {
    const Array x = random(1, {37, 200}, DType::kBF16), u = random(2, {37, 24}, DType::kF32);
    const Array start = random(3, {37, 50});
    const Weight w = quantized_weight(4, 50, 200, kNf4Double, unit_scale(200));
    const Weight lora = plain_weight(5, 50, 24, DType::kF32, unit_scale(24), 2.0f);
    for (bool accumulate : {false, true}) {
        const Compute run = [&](Backend& b, Memory& memory) {
            const GemmTerm terms[] = {
                {memory.put(x), packed(b, memory, w, Orientation::kForward, DType::kBF16)},
                {memory.put(u), packed(b, memory, lora, Orientation::kForward, DType::kBF16)}};
            const Tensor c = memory.put(start);
            b.gemm(terms, Tensor(), c, accumulate);
            return std::vector{memory.get(c)};
        };
        expect_reference(run, 2 * gemm_tolerance(224));
    }
}

TEST_P(Gemm, RowsDoNotDependOnTheCall) {
    // The long inner dimension, as a head's backwards, is packed in ranges where many rows read it.
    const bool packs = GetParam().find("cuda") == std::string::npos;
    // Then shapes as libraries have algorithms for, odd ones, and LoRA's; many rows on a real
    // device.
    const std::int64_t many = native() && !packs ? 2500 : 131;
    for (const auto& [m, n, k] :
         std::vector<std::array<std::int64_t, 3>>{{131, 90, 450},
                                                  {40, 3, packs ? 120000 : 2000},
                                                  {many, 96, 448},
                                                  {many, 192, 1008},
                                                  {many, 8, 576},
                                                  {many, 16, 64},
                                                  {many, 57, 128}}) {
        const Array a = random(1, {m, k}, DType::kBF16);
        const Weight w = quantized_weight(2, n, k, kNf4Double, unit_scale(k));
        for (DType dtype : {DType::kF32, DType::kBF16}) {
            const auto backend = make(2);
            auto multiply = [&, &n = n](const Array& part) {
                return run_on(*backend, [&](Backend& b, Memory& memory) {
                    const GemmTerm term{memory.put(part),
                                        packed(b, memory, w, Orientation::kForward, dtype)};
                    const Tensor c = memory.fresh({part.shape[0], n});
                    b.gemm({&term, 1}, Tensor(), c, false);
                    return std::vector{memory.get(c)};
                })[0];
            };
            const Array whole = multiply(a);
            for (const auto& [first, count] :
                 std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1},
                                                                    {5, 2},
                                                                    {7, 3},
                                                                    {11, 4},
                                                                    {20, 5},
                                                                    {31, 8},
                                                                    {40, 17},
                                                                    {60, 71},
                                                                    {100, 168},
                                                                    {3, 2047}}) {
                if (first + count > m) continue;
                expect_same_bits(rows_of(whole, first, count), multiply(rows_of(a, first, count)),
                                 fmt::format("rows {} + {} of {}", first, count, k));
            }
        }
    }
}

TEST_P(Gemm, LargeInnerDimension) {
    // 200 strips' inner dimensions of 20,000 do not fit the packing workspace at once.
    const std::int64_t m = native() ? 300 : 40, k = 20000;
    const Array a = random(1, {m, k}, DType::kBF16);
    const Weight w = plain_weight(2, 3, k, DType::kBF16, unit_scale(k));
    const Compute run = [&](Backend& b, Memory& memory) {
        const GemmTerm term{memory.put(a),
                            packed(b, memory, w, Orientation::kForward, DType::kF32)};
        const Tensor c = memory.fresh({m, 3});
        b.gemm({&term, 1}, Tensor(), c, false);
        return std::vector{memory.get(c)};
    };
    expect_reference(run, gemm_tolerance(k));
}

/// As a linear with LoRA: u = x A^T, which the other two read beside x. 20,000: in chunks of rows.
TEST_P(Gemm, AGroupOfProductsHasTheBitsOfEachAlone) {
    for (const auto& [m, k] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {37, 200}, {native() ? 300 : 40, 20000}}) {
        const Array x = random(1, {m, k}, DType::kF32), start = random(2, {m, 33});
        const Array bias = random(3, {50});
        const Weight a = plain_weight(4, 12, k, DType::kF32, unit_scale(k), 1.0f);
        const Weight w = plain_weight(5, 50, k, DType::kBF16, unit_scale(k), 1.0f);
        const Weight b = plain_weight(6, 50, 12, DType::kF32, unit_scale(12), 2.0f);
        const Weight v = plain_weight(7, 33, k, DType::kBF16, unit_scale(k), 1.0f);
        const auto backend = make(2);
        const auto results = [&](bool together) {
            return run_on(*backend, [&](Backend& device, Memory& memory) {
                const auto pack = [&](const Weight& weight) {
                    return packed(device, memory, weight, Orientation::kForward, DType::kBF16);
                };
                const Tensor input = memory.put(x), u = memory.fresh({m, 12}, DType::kBF16);
                const Tensor y = memory.fresh({m, 50}, DType::kBF16), z = memory.put(start);
                const GemmTerm down{input, pack(a)}, plain{input, pack(v)};
                const GemmTerm sum[] = {{input, pack(w)}, {u, pack(b)}};
                const GemmCall calls[] = {{{&down, 1}, Tensor(), u},
                                          {sum, memory.put(bias), y},
                                          {{&plain, 1}, Tensor(), z, true}};
                if (together) {
                    device.gemms(calls);
                } else {
                    for (const auto& [terms, added, c, accumulate] : calls)
                        device.gemm(terms, added, c, accumulate);
                }
                return std::vector{memory.get(u), memory.get(y), memory.get(z)};
            });
        };
        const std::vector<Array> group = results(true), alone = results(false);
        for (std::size_t i = 0; i < group.size(); ++i)
            expect_same_bits(group[i], alone[i], fmt::format("{} x {}, {}", m, k, i));
    }
}

/// q, k and v with LoRA beside their weights: one input in several products, with widths that
/// libraries take; the third adapter's rank is another, the fourth linear has none.
TEST_P(Gemm, LinearsOfOneInputHaveTheBitsOfEachAlone) {
    struct Linear {
        std::int64_t out, r;
    };
    const std::vector<Linear> linears = {{48, 16}, {16, 16}, {24, 8}, {40, 0}};
    const std::int64_t m = 37, k = 64;
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
        const Array x = random(1, {m, k}, dtype);
        const auto computed = [&](bool together) -> Compute {
            return [&, together](Backend& device, Memory& memory) {
                const Tensor input = memory.put(x);
                std::vector<Tensor> outputs;
                std::vector<std::vector<GemmTerm>> terms;
                const auto pack = [&](const Weight& weight, void* to) {
                    return device.pack(weight.view(memory), Orientation::kForward, DType::kBF16,
                                       to);
                };
                const auto bytes = [&](std::int64_t rows, std::int64_t cols) {
                    return device.packed_bytes(rows, cols, Orientation::kForward, DType::kBF16);
                };
                for (const auto& [out, r] : linears) {
                    const std::size_t w_bytes = bytes(out, k), b_bytes = r > 0 ? bytes(out, r) : 0;
                    auto* const beside = static_cast<std::byte*>(memory.raw(w_bytes + b_bytes));
                    const std::uint64_t seed = 10 + terms.size();
                    const Weight w = plain_weight(seed, out, k, DType::kBF16, unit_scale(k), 1.0f);
                    std::vector<GemmTerm> sum = {{input, pack(w, beside)}};
                    if (r > 0) {
                        const Weight a =
                            plain_weight(seed + 20, r, k, DType::kF32, unit_scale(k), 1.0f);
                        const Weight b =
                            plain_weight(seed + 30, out, r, DType::kF32, unit_scale(r), 2.0f);
                        terms.push_back({{input, pack(a, memory.raw(bytes(r, k)))}});
                        outputs.push_back(memory.fresh({m, r}, DType::kBF16));
                        sum.push_back({outputs.back(), pack(b, beside + w_bytes)});
                    }
                    terms.push_back(sum);
                    outputs.push_back(memory.fresh({m, out}, DType::kBF16));
                }
                std::vector<GemmCall> calls;
                for (std::size_t i = 0; i < terms.size(); ++i)
                    calls.push_back({terms[i], Tensor(), outputs[i]});
                if (together) {
                    device.gemms(calls);
                } else {
                    for (const GemmCall& call : calls) device.gemm(call.terms, {}, call.c, false);
                }
                std::vector<Array> values;
                for (const Tensor& output : outputs) values.push_back(memory.get(output));
                return values;
            };
        };
        expect_reference(computed(true), 0x1p-7, kEps16);  // u is rounded to bf16 in between
        const auto backend = make(2);
        const std::vector<Array> group = run_on(*backend, computed(true));
        const std::vector<Array> alone = run_on(*backend, computed(false));
        ASSERT_EQ(group.size(), 7u);
        for (std::size_t i = 0; i < group.size(); ++i)
            expect_same_bits(group[i], alone[i], fmt::format("{} {}", name_of(dtype), i));
    }
}

TEST_P(Gemm, BackwardIsTheForwardsGradient) {
    const Weight w = plain_weight(1, 19, 23, DType::kF32, 0.5f);
    const Array x = random(2, {4, 23}), weights = random(3, {4, 19});
    const auto backend = make();
    auto multiply = [&](const Array& a, Orientation way, std::int64_t outer) {
        return run_on(*backend, [&](Backend& b, Memory& memory) {
            const GemmTerm term{memory.put(a), packed(b, memory, w, way, DType::kF32)};
            const Tensor c = memory.fresh({4, outer});
            b.gemm({&term, 1}, Tensor(), c, false);
            return std::vector{memory.get(c)};
        })[0];
    };
    expect_gradient(
        [&](const Array& at) { return dot(weights, multiply(at, Orientation::kForward, 19)); }, x,
        multiply(weights, Orientation::kBackward, 23), 0.5f, 1e-5);
}

class GemmRows : public Ops {};
QSHARD_OPS_SUITE(GemmRows);

TEST_P(GemmRows, MatchesReference) {
    struct Case {
        std::int64_t n, m, k;
    };
    for (const Case& x : {Case{1, 8, 16},
                          {7, 1, 3},
                          {300, 16, 100},
                          {513, 8, 65},
                          {64, 61, 33},
                          {40, 130, 48},
                          {90, 16, 600},
                          {30, 1500, 40}}) {
        for (DType dtype : {DType::kF32, DType::kBF16}) {
            for (bool transposed : {false, true}) {
                SCOPED_TRACE(fmt::format("n {} m {} k {} {} transposed {}", x.n, x.m, x.k,
                                         name_of(dtype), transposed));
                const Array a = random(1, {x.n, x.m}, DType::kF32, unit_scale(x.n));
                const Array b = random(2, {x.n, x.k}, DType::kBF16);
                const Compute run = [&](Backend& backend, Memory& memory) {
                    const Tensor c =
                        transposed ? memory.fresh({x.k, x.m}) : memory.fresh({x.m, x.k});
                    const Tensor in = memory.put(a), out = memory.put(b);
                    backend.gemm_rows(in, out, 0.5f, dtype, c, transposed, false);
                    const Tensor sum = memory.put(random(3, {c.rows(), c.cols()}));
                    backend.gemm_rows(in, out, 0.5f, dtype, sum, transposed, true);
                    return std::vector{memory.get(c), memory.get(sum)};
                };
                expect_reference(run, gemm_tolerance(x.n));
            }
        }
    }
}

TEST_P(GemmRows, OfSlotsHasTheBitsOfEachAlone) {
    const std::vector<std::int64_t> begin = {0, 5, 5, 1100, 1101, 1613};
    const std::int64_t m = 12, k = 70, stride = m * k + 8, slots = std::ssize(begin) - 1;
    for (const int threads : {1, 3}) {
        const auto backend = make(threads);
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
            for (const bool transposed : {false, true}) {
                SCOPED_TRACE(fmt::format("{} transposed {}", name_of(dtype), transposed));
                Memory memory(*backend);
                const Tensor a = memory.put(random(1, {begin.back(), m}, DType::kBF16));
                const Tensor b = memory.put(random(2, {begin.back(), k}));
                const Tensor all = memory.put(random(3, {slots * stride}));
                const auto result = [&](std::int64_t slot) {
                    return Tensor(all.as<float>() + slot * stride, DType::kF32,
                                  {transposed ? k : m, transposed ? m : k});
                };
                backend->gemm_rows_of_slots(a, b, begin, 0.5f, dtype, result(0), stride,
                                            transposed);
                for (std::int64_t s = 0; s < slots; ++s) {
                    const std::int64_t first = begin[static_cast<std::size_t>(s)],
                                       rows = begin[static_cast<std::size_t>(s) + 1] - first;
                    const Tensor one = memory.fresh({result(s).rows(), result(s).cols()});
                    if (rows > 0) {
                        backend->gemm_rows(a.row_range(first, rows), b.row_range(first, rows), 0.5f,
                                           dtype, one, transposed, false);
                    }
                    expect_same_bits(memory.get(result(s)), memory.get(one),
                                     fmt::format("slot {}", s));
                }
                const Array kept = memory.get(all), before = random(3, {slots * stride});
                for (std::int64_t s = 1; s <= slots; ++s)
                    EXPECT_EQ(kept.at(s * stride - 1), before.at(s * stride - 1));
            }
        }
    }
}

}  // namespace
}  // namespace qshard::ops
