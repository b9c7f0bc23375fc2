#include "backend/cuda/dispatch.cuh"

/// Updates of the flat trainable vector. Compiled without contraction: the bits are the CPU's.
namespace qshard::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSquaresWarps = 4;

/// A warp has 32 chunks, a lane sums one of them in order; tiles go through shared memory so that
/// reads are of neighbours.
__global__ void squares_kernel(const float* x, std::int64_t count, double* sums) {
    __shared__ float tiles[kSquaresWarps][kWarp][kWarp + 1];
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const std::int64_t first = (std::int64_t{blockIdx.x} * kSquaresWarps + warp) * kWarp;
    float(&tile)[kWarp][kWarp + 1] = tiles[warp];
    double sum = 0;
    for (std::int64_t at = 0; at < kSquaresChunk; at += kWarp) {
        for (int r = 0; r < kWarp; ++r) {
            const std::int64_t i = (first + r) * kSquaresChunk + at + lane;
            tile[r][lane] = i < count ? x[i] : 0.0f;
        }
        __syncwarp();
        for (int i = 0; i < kWarp; ++i) {
            const double v = tile[lane][i];
            sum += v * v;
        }
        __syncwarp();
    }
    if ((first + lane) * kSquaresChunk < count) sums[first + lane] = sum;
}

__global__ void adamw_kernel(AdamWFactors f, float* p, const float* g, float* m, float* v,
                             std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= count) return;
    const float gradient = g[i], parameter = p[i] * f.keep;
    const float first = f.beta1 * m[i] + f.rest1 * gradient;
    const float second = f.beta2 * v[i] + f.rest2 * gradient * gradient;
    m[i] = first;
    v[i] = second;
    p[i] = parameter - f.step_size * first / (sqrtf(second) / f.root + f.epsilon);
}

__global__ void sgd_kernel(SgdFactors h, float* p, const float* g, float* momentum,
                           std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= count) return;
    float d = g[i] + h.weight_decay * p[i];
    if (momentum != nullptr) {
        if (!h.first) d = h.momentum * momentum[i] + d;
        momentum[i] = d;
    }
    p[i] -= h.learning_rate * d;
}

__global__ void rmsprop_kernel(RmsPropFactors h, float* p, const float* g, float* square_avg,
                               float* momentum, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= count) return;
    float d = g[i] + h.weight_decay * p[i];
    const float s = h.alpha * square_avg[i] + (1.0f - h.alpha) * d * d;
    square_avg[i] = s;
    d /= sqrtf(s) + h.epsilon;
    if (momentum != nullptr) {
        d = h.momentum * momentum[i] + d;
        momentum[i] = d;
    }
    p[i] -= h.learning_rate * d;
}

}  // namespace

void squares_of_chunks(const float* x, std::int64_t count, double* sums, Stream stream) {
    launch(squares_kernel, dim3(blocks_of(count, kSquaresChunk * kWarp * kSquaresWarps)),
           dim3(kWarp * kSquaresWarps), 0, stream, x, count, sums);
}

void adamw(const AdamWFactors& factors, float* parameter, const float* gradient, float* exp_avg,
           float* exp_avg_sq, std::int64_t count, Stream stream) {
    launch(adamw_kernel, dim3(blocks_of(count, kThreads)), dim3(kThreads), 0, stream, factors,
           parameter, gradient, exp_avg, exp_avg_sq, count);
}

void sgd(const SgdFactors& factors, float* parameter, const float* gradient, float* momentum,
         std::int64_t count, Stream stream) {
    launch(sgd_kernel, dim3(blocks_of(count, kThreads)), dim3(kThreads), 0, stream, factors,
           parameter, gradient, momentum, count);
}

void rmsprop(const RmsPropFactors& factors, float* parameter, const float* gradient,
             float* square_avg, float* momentum, std::int64_t count, Stream stream) {
    launch(rmsprop_kernel, dim3(blocks_of(count, kThreads)), dim3(kThreads), 0, stream, factors,
           parameter, gradient, square_avg, momentum, count);
}

}  // namespace qshard::cuda
