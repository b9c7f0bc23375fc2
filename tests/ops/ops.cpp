#include "ops.h"

#include <cstdlib>

#include "../gpu/emulated/emulated_cuda.h"
#include "backend/cpu/cpu_backend.h"
#include "emulated_kernels.h"

namespace qshard::ops {
namespace {

Tensor view(void* data, DType dtype, const std::vector<std::int64_t>& shape) {
    switch (shape.size()) {
        case 1:
            return Tensor(data, dtype, {shape[0]});
        case 2:
            return Tensor(data, dtype, {shape[0], shape[1]});
        case 3:
            return Tensor(data, dtype, {shape[0], shape[1], shape[2]});
        default:
            throw BugError("a test array has 1 to 3 dimensions");
    }
}

/// cpu (every kernel set, and the CUDA kernels emulated), cuda or reference.
std::string backend_under_test() {
    const char* name = std::getenv("QSHARD_TEST_BACKEND");
    return name == nullptr ? "cpu" : name;
}

/// Says once which kernel sets this machine could not run.
class AbsentSets : public testing::Environment {
    void SetUp() override {
        if (backend_under_test() != "cpu") return;
        for (std::string_view name : {"amx_bf16", "avx512_bf16", "avx512", "avx2", "sse"}) {
            const auto offered = cpu_isas();
            if (std::find(offered.begin(), offered.end(), name) == offered.end()) {
                fmt::print("not run natively, this processor lacks it: {}\n", name);
            }
        }
    }
};
const auto* const kAbsentSets = testing::AddGlobalTestEnvironment(new AbsentSets);

}  // namespace

std::vector<std::string> kernel_sets() {
    if (backend_under_test() != "cpu") return {backend_under_test()};
    std::vector<std::string> names(cpu_isas().begin(), cpu_isas().end());
    names.insert(names.end(), {"emulated_avx512", "emulated_avx512_bf16", "emulated_amx_bf16",
                               "emulated_cuda_sm_90", "emulated_cuda_sm_75"});
    return names;
}

Array zeros(std::vector<std::int64_t> shape, DType dtype) {
    Array x{dtype, std::move(shape), {}};
    x.bytes.resize(static_cast<std::size_t>(x.count()) * bytes_of(dtype));
    return x;
}

Array random(std::uint64_t seed, std::vector<std::int64_t> shape, DType dtype, float scale) {
    Array x = zeros(std::move(shape), dtype);
    const Philox stream(seed, Purpose::kTestData);
    for (std::int64_t i = 0; i < x.count(); ++i) {
        x.set(i, scale * (2.0f * stream.uniform(static_cast<std::uint64_t>(i)) - 1.0f));
    }
    return x;
}

Array rows_of(const Array& x, std::int64_t begin, std::int64_t count) {
    Array part{x.dtype, x.shape, {}};
    part.shape[0] = count;
    const auto row = x.bytes.size() / static_cast<std::size_t>(x.shape[0]);
    const auto first = x.bytes.begin() + static_cast<std::ptrdiff_t>(row) * begin;
    part.bytes.assign(first, first + static_cast<std::ptrdiff_t>(row) * count);
    return part;
}

Tensor Memory::put(const Array& x) {
    void* pointer = raw(x.bytes.size());
    backend_.upload(pointer, x.bytes.data(), x.bytes.size());
    return view(pointer, x.dtype, x.shape);
}

Array Memory::get(const Tensor& x) {
    std::vector<std::int64_t> shape;
    for (int axis = 0; axis < x.rank(); ++axis) shape.push_back(x.dim(axis));
    Array host = zeros(std::move(shape), x.dtype());
    backend_.synchronize();
    backend_.download(host.bytes.data(), x.data(), host.bytes.size());
    return host;
}

void Ops::SetUp() {
    if (GetParam() != "cuda") return;
    const CudaPlatform platform = cuda_platform();
    if (platform.devices.empty()) GTEST_SKIP() << "no GPU: " << platform.problem;
}

std::unique_ptr<Backend> Ops::make(int threads) const {
    const std::string& set = GetParam();
    if (set == "reference") return make_reference_backend();
    if (set == "cuda") return make_cuda_backend({});
    if (set == "emulated_cuda_sm_90") return make_emulated_cuda_backend({0});
    if (set == "emulated_cuda_sm_75") return make_emulated_cuda_backend({1});
    const cpu::Kernels* emulated = set == "emulated_avx512" ? &cpu::emulated_avx512_kernels()
                                   : set == "emulated_avx512_bf16"
                                       ? &cpu::emulated_avx512_bf16_kernels()
                                   : set == "emulated_amx_bf16" ? &cpu::emulated_amx_bf16_kernels()
                                                                : nullptr;
    if (emulated != nullptr) return std::make_unique<cpu::CpuBackend>(*emulated, threads);
    return make_cpu_backend({threads, set});
}

std::vector<Array> run_on(Backend& backend, const Compute& run) {
    Memory memory(backend);
    return run(backend, memory);
}

void expect_same_bits(const Array& a, const Array& b, const std::string& what) {
    ASSERT_EQ(a.bytes.size(), b.bytes.size()) << what;
    if (a.bytes.empty() || std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0) return;
    std::int64_t i = 0;
    while (std::memcmp(a.bytes.data() + i * static_cast<std::int64_t>(bytes_of(a.dtype)),
                       b.bytes.data() + i * static_cast<std::int64_t>(bytes_of(a.dtype)),
                       bytes_of(a.dtype)) == 0) {
        ++i;
    }
    ADD_FAILURE() << what << ": element " << i << " differs: " << a.at(i) << " and " << b.at(i);
}

void Ops::expect_reference(const Compute& run, double absolute, double relative) const {
    const auto reference = make_reference_backend();
    const std::vector<Array> expected = run_on(*reference, run);
    const std::vector<Array> found = run_on(*make(1), run);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t a = 0; a < found.size(); ++a) {
        ASSERT_EQ(found[a].count(), expected[a].count());
        double worst = 0;
        std::int64_t where = 0;
        for (std::int64_t i = 0; i < found[a].count(); ++i) {
            const double want = expected[a].at(i);
            const double error = std::fabs(double{found[a].at(i)} - want);
            // Bounds of zero ask for equality; a NaN is worse than all that follows.
            const double share = error == 0 ? 0.0 : error / (absolute + relative * std::fabs(want));
            if (share <= worst) continue;
            worst = share;
            where = i;
            if (std::isnan(worst)) break;
        }
        EXPECT_LE(worst, 1.0) << "result " << a << ", element " << where << ": expected "
                              << expected[a].at(where) << ", found " << found[a].at(where);
    }
    // A GPU has no threads to choose: once more is enough.
    const bool gpu = GetParam().find("cuda") != std::string::npos;
    for (int threads = 2; threads <= (gpu ? 2 : 3); ++threads) {
        const std::vector<Array> again = run_on(*make(threads), run);
        for (std::size_t a = 0; a < found.size(); ++a) {
            expect_same_bits(found[a], again[a], fmt::format("result {}, {} threads", a, threads));
        }
    }
}

double dot(const Array& a, const Array& b) {
    double sum = 0;
    for (std::int64_t i = 0; i < a.count(); ++i) sum += double{a.at(i)} * double{b.at(i)};
    return sum;
}

void Ops::expect_gradient(const std::function<double(const Array&)>& loss, const Array& x,
                          const Array& gradient, float step, double tolerance) {
    const Array direction = random(4711, x.shape);
    Array forward = x, backward = x;
    for (std::int64_t i = 0; i < x.count(); ++i) {
        forward.set(i, x.at(i) + step * direction.at(i));
        backward.set(i, x.at(i) - step * direction.at(i));
    }
    const double slope = (loss(forward) - loss(backward)) / (2.0 * double{step});
    const double norm = std::sqrt(dot(gradient, gradient));
    EXPECT_NEAR(dot(gradient, direction), slope, tolerance * norm);
}

}  // namespace qshard::ops
