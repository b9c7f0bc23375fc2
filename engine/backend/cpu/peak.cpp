#include "backend/cpu/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "backend/cpu/cpu_backend.h"
#include "backend/device_buffer.h"

namespace qshard {
namespace {

double seconds_of(auto&& run) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double measure_peak_flops(Backend& backend) {
    constexpr std::int64_t kSide = 1024;
    constexpr double kFlops = 2.0 * kSide * kSide * kSide, kSeconds = 0.2;
    const std::size_t bytes = kSide * kSide * sizeof(float);
    const DeviceBuffer weight(backend, bytes), a(backend, bytes), c(backend, bytes);
    const DeviceBuffer packed(
        backend, backend.packed_bytes(kSide, kSide, Orientation::kForward, DType::kBF16));
    WeightView view;
    view.rows = view.cols = kSide;
    view.plain = Tensor(weight.get(), DType::kBF16, {kSide, kSide});
    const Tensor x(a.get(), DType::kBF16, {kSide, kSide}), y(c.get(), DType::kF32, {kSide, kSide});
    backend.fill_zero(view.plain);
    backend.fill_zero(x);
    const GemmTerm term{x, backend.pack(view, Orientation::kForward, DType::kBF16, packed.get())};
    double best = 0, spent = 0;
    while (spent < kSeconds) {
        const double seconds = seconds_of([&] {
            backend.gemm({&term, 1}, Tensor(), y, false);
            backend.synchronize();
        });
        spent += seconds;
        best = std::max(best, kFlops / seconds);
    }
    return best;
}

double spin_multiply_adds(Backend& backend) {
    auto* cpu = dynamic_cast<cpu::CpuBackend*>(&backend);
    check(cpu != nullptr, "register-only multiply-adds run on CPU backends");
    constexpr std::int64_t kRounds = 2'000'000;
    std::atomic<double> flops{0};
    cpu->pool().run(cpu->threads(), [&](std::int64_t, int) {
        flops += cpu->kernels().spin_multiply_adds(kRounds);
    });
    return flops;
}

}  // namespace qshard
