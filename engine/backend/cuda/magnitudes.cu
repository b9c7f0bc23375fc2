#include "backend/cuda/reduce.cuh"
#include "backend/cuda/weights.cuh"

/// DoRA: lengths of weight rows, and derivatives by the magnitudes that replace them.
namespace qshard::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 8;  ///< of a block: A is read once for all of them

template <class Source>
__global__ void __launch_bounds__(kThreads)
    row_norms_kernel(const __grid_constant__ Source source, RowNorms norms) {
    __shared__ float values[16];
    __shared__ double shared[kWarp];
    auto* up = reinterpret_cast<float*>(dynamic_shared());  // scale B, [r][kRows]
    const std::int64_t row0 = std::int64_t{blockIdx.x} * kRows;
    const std::int64_t r = norms.r, cols = norms.cols, left = norms.rows - row0;
    for (std::int64_t e = threadIdx.x; e < r * kRows; e += kThreads) {
        const std::int64_t k = e / kRows, j = e % kRows;
        up[e] = j < left ? norms.scale * norms.b[(row0 + j) * r + k] : 0.0f;
    }
    share_table(source, values);
    double squares[kRows] = {};
    for (std::int64_t c = threadIdx.x; c < cols; c += kThreads) {
        float v[kRows];
#pragma unroll
        for (int j = 0; j < kRows; ++j)
            v[j] = j < left ? source.at((row0 + j) * cols + c, values) : 0.0f;
        for (std::int64_t k = 0; k < r; ++k) {
            const float x = norms.a[k * cols + c];
#pragma unroll
            for (int j = 0; j < kRows; ++j) v[j] = fmaf(up[k * kRows + j], x, v[j]);
        }
#pragma unroll
        for (int j = 0; j < kRows; ++j)
            squares[j] += static_cast<double>(v[j]) * static_cast<double>(v[j]);
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
        const float norm = static_cast<float>(sqrt(block_sum(squares[j], shared)));
        if (threadIdx.x != 0 || j >= left) continue;
        const std::int64_t row = row0 + j;
        norms.out[row] = norms.magnitude == nullptr ? norm
                         : norm > 0                 ? norms.magnitude[row] / norm
                                                    : 0.0f;
    }
}

constexpr int kParts = 16;  ///< sums of a column: rows part, part + 16, ...

template <class D, class Y>
__global__ void __launch_bounds__(kWarp* kParts)
    magnitude_backward_kernel(const D* dy, const Y* y, MagnitudeBackward x) {
    __shared__ float parts[kParts][kWarp];
    const std::int64_t first = std::int64_t{blockIdx.x} * kWarp, col = first + threadIdx.x;
    const bool inside = col < x.cols;
    float sum = 0;
    if (inside) {
        const float shift = x.bias == nullptr ? 0.0f : x.bias[col];
#pragma unroll 4
        for (std::int64_t n = threadIdx.y; n < x.rows; n += kParts) {
            const std::int64_t at = n * x.cols + col;
            sum = fmaf(to_float(dy[at]), to_float(y[at]) - shift, sum);
        }
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && inside) {
        for (int p = 1; p < kParts; ++p) sum += parts[p][threadIdx.x];
        const float m = x.magnitude[col];
        x.dmagnitude[col] = m == 0 ? 0.0f : sum / m;
    }
    const std::int64_t cols = x.cols - first < kWarp ? x.cols - first : kWarp;
    for (std::int64_t e = threadIdx.y * kWarp + threadIdx.x; e < cols * x.r; e += kWarp * kParts)
        x.db[first * x.r + e] *= x.factor[first + e / x.r];
}

}  // namespace

void row_norms(const StoredWeight& weight, const RowNorms& norms, Stream stream) {
    const auto bytes = static_cast<std::size_t>(norms.r * kRows) * sizeof(float);
    with_source(weight, [&](auto source) {
        launch(row_norms_kernel<decltype(source)>, dim3(blocks_of(norms.rows, kRows)),
               dim3(kThreads), bytes, stream, source, norms);
    });
}

void magnitude_backward(In dy, In y, const MagnitudeBackward& x, Stream stream) {
    typed(dy.is_bf16, [&](auto* d) {
        typed(y.is_bf16, [&](auto* v) {
            using D = std::remove_pointer_t<decltype(d)>;
            using Y = std::remove_pointer_t<decltype(v)>;
            launch(magnitude_backward_kernel<D, Y>, dim3(blocks_of(x.cols, kWarp)),
                   dim3(kWarp, kParts), 0, stream, as<D>(dy), as<Y>(y), x);
        });
    });
}

}  // namespace qshard::cuda
