#include "main/gemm_rate.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <vector>

#include "backend/device_buffer.h"
#include "model/head.h"

namespace qshard {
namespace {

constexpr const char* kHead = "head";

std::vector<GemmShape> shapes_of(const ModelConfig& config) {
    std::vector<GemmShape> shapes;
    for (const WeightSpec& weight : layer_weights(config, 0)) {
        if (!weight.linear) continue;
        const std::string module(weight.module());
        shapes.push_back(
            {module.substr(module.rfind('.') + 1), weight.rows, weight.cols, config.layers, 0, 0});
    }
    shapes.push_back({kHead, config.vocabulary, config.width, 1, 0, 0});
    return shapes;
}

/// Best of at least three calls within about 50 ms, after one that warms up.
double best_seconds(Backend& backend, const GemmTerm& term, Tensor c) {
    double best = 1e30, spent = 0;
    for (int call = 0; call < 4 || (spent < 0.05 && call < 200); ++call) {
        const auto begin = std::chrono::steady_clock::now();
        backend.gemm({&term, 1}, Tensor(), c, false);
        backend.synchronize();
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        spent += seconds;
        if (call > 0) best = std::min(best, seconds);
    }
    return best;
}

/// Numbers from [-1, 1): with zeros a GPU's clock is higher than a step ever sees it.
void fill_random(Backend& backend, void* device, std::size_t bytes, DType dtype) {
    std::minstd_rand generator(1);
    std::vector<std::byte> values(std::min(bytes, std::size_t{1} << 20));
    for (std::size_t i = 0; i < values.size() / bytes_of(dtype); ++i) {
        const float value = static_cast<float>(generator()) * 0x1p-30f - 1.0f;
        const bf16 rounded = to_bf16(value);
        if (dtype == DType::kBF16) std::memcpy(&values[2 * i], &rounded, 2);
        if (dtype == DType::kF32) std::memcpy(&values[4 * i], &value, 4);
    }
    for (std::size_t at = 0; at < bytes; at += values.size()) {
        backend.upload(static_cast<std::byte*>(device) + at, values.data(),
                       std::min(values.size(), bytes - at));
    }
}

double seconds_of(Backend& backend, const GemmShape& shape, Orientation orientation,
                  std::int64_t rows, DType compute) {
    const bool forward = orientation == Orientation::kForward;
    const std::int64_t inner = forward ? shape.in : shape.out,
                       outer = forward ? shape.out : shape.in;
    const std::size_t element = bytes_of(compute);
    const DeviceBuffer weight(backend, static_cast<std::size_t>(shape.out * shape.in) * element);
    const bool alone = shape.name == kHead;
    const DeviceBuffer packed(
        backend, alone ? backend.packed_alone_bytes(shape.out, shape.in, compute, !forward)
                       : backend.packed_bytes(shape.out, shape.in, orientation, compute));
    const DeviceBuffer a(backend, static_cast<std::size_t>(rows * inner) * element);
    const DeviceBuffer c(backend, static_cast<std::size_t>(rows * outer) * sizeof(float));
    WeightView view;
    view.rows = shape.out;
    view.cols = shape.in;
    view.plain = Tensor(weight.get(), compute, {shape.out, shape.in});
    const Tensor x(a.get(), compute, {rows, inner});
    fill_random(backend, weight.get(), view.plain.bytes(), compute);
    fill_random(backend, a.get(), x.bytes(), compute);
    GemmTerm term{x, {}};
    if (alone) {
        const PackedPair pair = backend.pack_alone(view, compute, !forward, packed.get());
        term.b = forward ? pair.forward : pair.backward;
    } else {
        term.b = backend.pack(view, orientation, compute, packed.get());
    }
    return best_seconds(backend, term, Tensor(c.get(), DType::kF32, {rows, outer}));
}

}  // namespace

GemmRate measure_gemm_rate(Backend& backend, const ModelConfig& config, std::int64_t rows,
                           DType compute) {
    GemmRate rate;
    rate.shapes = shapes_of(config);
    double flops = 0, seconds = 0;
    for (GemmShape& shape : rate.shapes) {
        const bool head = shape.name == kHead;
        const std::int64_t taken = head ? std::min(rows, head_chunk_rows(backend, config)) : rows;
        // Per token, so that the head's smaller call counts as a step's whole work.
        const double share = static_cast<double>(rows) / static_cast<double>(taken);
        shape.seconds_forward =
            share * seconds_of(backend, shape, Orientation::kForward, taken, compute);
        shape.seconds_backward =
            share * seconds_of(backend, shape, Orientation::kBackward, taken, compute);
        const auto uses = static_cast<double>(shape.uses);
        flops += 2 * uses * shape.flops(rows);
        seconds += uses * (shape.seconds_forward + shape.seconds_backward);
    }
    rate.flops_per_second = flops / seconds;
    return rate;
}

}  // namespace qshard
