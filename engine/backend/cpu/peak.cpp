#include "backend/cpu/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <vector>

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

PeakFlops measure_peak_flops(Backend& backend, std::int64_t side) {
    constexpr double kSeconds = 0.2;
    const double flops = 2.0 * std::pow(static_cast<double>(side), 3);
    const std::size_t bytes = static_cast<std::size_t>(side * side) * sizeof(float);
    const DeviceBuffer weight(backend, bytes), a(backend, bytes), c(backend, bytes);
    const DeviceBuffer packed(
        backend, backend.packed_bytes(side, side, Orientation::kForward, DType::kBF16));
    WeightView view;
    view.rows = view.cols = side;
    view.plain = Tensor(weight.get(), DType::kBF16, {side, side});
    const Tensor x(a.get(), DType::kBF16, {side, side}), y(c.get(), DType::kF32, {side, side});
    backend.fill_zero(view.plain);
    backend.fill_zero(x);
    const GemmTerm term{x, backend.pack(view, Orientation::kForward, DType::kBF16, packed.get())};
    std::vector<double> rates;
    for (double spent = 0; spent < kSeconds;) {
        const double seconds = seconds_of([&] {
            backend.gemm({&term, 1}, Tensor(), y, false);
            backend.synchronize();
        });
        spent += seconds;
        rates.push_back(flops / seconds);
    }
    std::ranges::sort(rates);
    return {rates.back(), rates[rates.size() / 2]};
}

PeakFlops measure_undisturbed_peak(Backend& backend) {
    constexpr int kRounds = 7;
    PeakFlops peak;
    for (int round = 0; round == 0 || (round < kRounds && disturbed(peak)); ++round) {
        const PeakFlops full = measure_peak_flops(backend);
        peak.median = full.median;
        peak.best = std::max(peak.best, full.best);
        for (const std::int64_t side : {512, 256})
            peak.best = std::max(peak.best, measure_peak_flops(backend, side).best);
    }
    return peak;
}

bool disturbed(const PeakFlops& peak) {
    return peak.median < 0.75 * peak.best;
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
