#include "backend/cuda/dispatch.cuh"
#include "backend/cuda/reduce.cuh"

/// Operations on whole rows: the threads along x of a block share a row. Statistics are summed in
/// double, each thread's elements first, then threads in a fixed tree, so a row's result depends on
/// nothing but the row.
namespace qshard::cuda {
namespace {

constexpr int kThreads = 256;

/// Narrow rows (heads) get a warp, wide ones a block.
dim3 threads_for(std::int64_t width) {
    return width <= 512 ? dim3(kWarp, kThreads / kWarp) : dim3(kThreads);
}
template <class F>
void launch_rows(std::int64_t rows, std::int64_t width, const F& body) {
    const dim3 threads = threads_for(width);
    body(dim3(blocks_of(rows, threads.y)), threads);
}
__device__ __forceinline__ std::int64_t my_row() {
    return std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
}

template <class A>
__device__ float inverse_rms(const A* x, std::int64_t width, float eps, double* shared) {
    double sum = 0;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        const double v = to_float(x[c]);
        sum += v * v;
    }
    sum = block_sum(sum, shared);
    return static_cast<float>(1.0 /
                              sqrt(sum / static_cast<double>(width) + static_cast<double>(eps)));
}

template <class A, class B>
__global__ void rms_norm_kernel(const A* x, const float* gain, float eps, float shift, B* y,
                                std::int64_t rows, std::int64_t width) {
    __shared__ double shared[kWarp];
    const std::int64_t row = my_row();
    if (row >= rows) return;
    x += row * width;
    y += row * width;
    const float inv = inverse_rms(x, width, eps, shared);
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x)
        assign(y[c], to_float(x[c]) * inv * (gain[c] + shift));
}

template <class A, class D>
__global__ void rms_norm_backward_kernel(const A* x, const float* gain, float eps, float shift,
                                         const D* dy, float* dx, bool accumulate, std::int64_t rows,
                                         std::int64_t width) {
    __shared__ double shared[kWarp];
    const std::int64_t row = my_row();
    if (row >= rows) return;
    x += row * width;
    dy += row * width;
    dx += row * width;
    const float inv = inverse_rms(x, width, eps, shared);
    double dot = 0;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        const float g = to_float(dy[c]) * (gain[c] + shift);
        dot += static_cast<double>(g) * static_cast<double>(to_float(x[c]));
    }
    dot = block_sum(dot, shared);
    const float factor = static_cast<float>(dot / static_cast<double>(width)) * inv * inv;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        const float g = to_float(dy[c]) * (gain[c] + shift);
        const float d = inv * (g - to_float(x[c]) * factor);
        dx[c] = accumulate ? dx[c] + d : d;
    }
}

/// Mean of a row and the inverse of its standard deviation.
template <class A>
__device__ float2 spread_of(const A* x, std::int64_t width, float eps, double* shared) {
    double sum = 0, squares = 0;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) sum += to_float(x[c]);
    const double mean = block_sum(sum, shared) / static_cast<double>(width);
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        const double v = static_cast<double>(to_float(x[c])) - mean;
        squares += v * v;
    }
    const double variance = block_sum(squares, shared) / static_cast<double>(width);
    return {static_cast<float>(mean),
            static_cast<float>(1.0 / sqrt(variance + static_cast<double>(eps)))};
}

template <class A, class B>
__global__ void layer_norm_kernel(const A* x, const float* gain, const float* bias, float eps, B* y,
                                  std::int64_t rows, std::int64_t width) {
    __shared__ double shared[kWarp];
    const std::int64_t row = my_row();
    if (row >= rows) return;
    x += row * width;
    y += row * width;
    const float2 spread = spread_of(x, width, eps, shared);
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x)
        assign(y[c], (to_float(x[c]) - spread.x) * spread.y * gain[c] + bias[c]);
}

template <class A, class D>
__global__ void layer_norm_backward_kernel(const A* x, const float* gain, float eps, const D* dy,
                                           float* dx, bool accumulate, std::int64_t rows,
                                           std::int64_t width) {
    __shared__ double shared[kWarp];
    const std::int64_t row = my_row();
    if (row >= rows) return;
    x += row * width;
    dy += row * width;
    dx += row * width;
    const float2 spread = spread_of(x, width, eps, shared);
    double sum = 0, dot = 0;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        const float z = (to_float(x[c]) - spread.x) * spread.y;
        const double g = to_float(dy[c]) * gain[c];
        sum += g;
        dot += g * static_cast<double>(z);
    }
    const auto mean = static_cast<float>(block_sum(sum, shared) / static_cast<double>(width));
    const auto slope = static_cast<float>(block_sum(dot, shared) / static_cast<double>(width));
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        const float z = (to_float(x[c]) - spread.x) * spread.y;
        const float d = spread.y * (to_float(dy[c]) * gain[c] - mean - z * slope);
        dx[c] = accumulate ? dx[c] + d : d;
    }
}

template <class A, class B>
__global__ void row_dots_kernel(const A* a, const B* b, std::int64_t rows, std::int64_t width,
                                float* out) {
    __shared__ double shared[kWarp];
    const std::int64_t row = my_row();
    if (row >= rows) return;
    double sum = 0;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) {
        sum += static_cast<double>(to_float(a[row * width + c])) *
               static_cast<double>(to_float(b[row * width + c]));
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[row] = static_cast<float>(sum);
}

template <class T>
__global__ void rope_kernel(T* x, const std::int32_t* positions, const float* cos, const float* sin,
                            float sign, std::int64_t rows, std::int64_t heads, std::int64_t width,
                            std::int64_t half) {
    const std::int64_t row = my_row();  // a token's head
    if (row >= rows) return;
    x += row * width;
    const std::int64_t line = positions[row / heads] * half;
    for (std::int64_t j = threadIdx.x; j < half; j += blockDim.x) {
        const float c = cos[line + j], s = sign * sin[line + j];
        const float a = to_float(x[j]), b = to_float(x[half + j]);
        assign(x[j], a * c - b * s);
        assign(x[half + j], b * c + a * s);
    }
}

template <class A, class B>
__global__ void pick_rows_kernel(const A* in, const std::int32_t* rows, std::int64_t count,
                                 std::int64_t width, float scale, bool scatter, B* out) {
    const std::int64_t i = my_row();
    if (i >= count) return;
    const std::int64_t from = scatter ? i : rows[i], to = scatter ? rows[i] : i;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x)
        assign(out[to * width + c], scale * to_float(in[from * width + c]));
}

/// One thread a column: a row may be that of several tokens.
__global__ void embed_backward_kernel(const float* dx, const std::int32_t* ids, std::int64_t count,
                                      std::int64_t width, float scale, float* table) {
    const std::int64_t c = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
    if (c >= width) return;
    for (std::int64_t n = 0; n < count; ++n) {
        if (ids[n] < 0) continue;
        float& to = table[ids[n] * width + c];
        to = __fadd_rn(to, __fmul_rn(scale, dx[n * width + c]));
    }
}

template <class A>
__global__ void add_rows_kernel(const A* in, const std::int32_t* rows, const float* factors,
                                std::int64_t count, std::int64_t width, float* out) {
    const std::int64_t i = my_row();
    if (i >= count) return;
    out += rows[i] * width;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x)
        out[c] = __fadd_rn(out[c], __fmul_rn(factors[i], to_float(in[i * width + c])));
}

template <class T>
__global__ void scale_rows_kernel(T* x, const float* factors, std::int64_t rows,
                                  std::int64_t width) {
    const std::int64_t i = my_row();
    if (i >= rows) return;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x)
        assign(x[i * width + c], to_float(x[i * width + c]) * factors[i]);
}

__global__ void log_softmax_kernel(float* logits, const std::int32_t* targets, std::int64_t width,
                                   float logit_scale, float softcap, const float* dlogprob,
                                   float* logprob) {
    __shared__ double shared[kWarp];
    const std::int64_t row = blockIdx.x;
    float* z = logits + row * width;
    const std::int64_t target = targets[row];
    float top = -INFINITY;
    for (std::int64_t v = threadIdx.x; v < width; v += blockDim.x) {
        float value = z[v] * logit_scale;
        if (softcap > 0) value = softcap * tanhf(value / softcap);
        z[v] = value;
        top = fmaxf(top, value);
    }
    top = block_max(top, reinterpret_cast<float*>(shared));
    double sum = 0;
    for (std::int64_t v = threadIdx.x; v < width; v += blockDim.x) sum += expf(z[v] - top);
    sum = block_sum(sum, shared);
    // block_sum's barriers also order the writes of z before this read.
    if (threadIdx.x == 0)
        logprob[row] = static_cast<float>(static_cast<double>(z[target]) -
                                          (static_cast<double>(top) + log(sum)));
    if (dlogprob == nullptr) return;
    __syncthreads();
    const float d = dlogprob[row], share = static_cast<float>(1.0 / sum);
    for (std::int64_t v = threadIdx.x; v < width; v += blockDim.x) {
        const float p = expf(z[v] - top) * share;
        const float t = softcap > 0 ? z[v] / softcap : 0.0f;
        z[v] = d * ((v == target ? 1.0f : 0.0f) - p) * (1.0f - t * t) * logit_scale;
    }
}

}  // namespace

void rms_norm(In x, const float* gain, float eps, bool offset, Out y, std::int64_t rows,
              std::int64_t width, Stream stream) {
    launch_rows(rows, width, [&](dim3 grid, dim3 threads) {
        typed(x.is_bf16, [&](auto* a) {
            typed(y.is_bf16, [&](auto* b) {
                using A = std::remove_pointer_t<decltype(a)>;
                using B = std::remove_pointer_t<decltype(b)>;
                launch(rms_norm_kernel<A, B>, grid, threads, 0, stream, as<A>(x), gain, eps,
                       offset ? 1.0f : 0.0f, as<B>(y), rows, width);
            });
        });
    });
}

void rms_norm_backward(In x, const float* gain, float eps, bool offset, In dy, float* dx,
                       bool accumulate, std::int64_t rows, std::int64_t width, Stream stream) {
    launch_rows(rows, width, [&](dim3 grid, dim3 threads) {
        typed(x.is_bf16, [&](auto* a) {
            typed(dy.is_bf16, [&](auto* d) {
                using A = std::remove_pointer_t<decltype(a)>;
                using D = std::remove_pointer_t<decltype(d)>;
                launch(rms_norm_backward_kernel<A, D>, grid, threads, 0, stream, as<A>(x), gain,
                       eps, offset ? 1.0f : 0.0f, as<D>(dy), dx, accumulate, rows, width);
            });
        });
    });
}

void layer_norm(In x, const float* gain, const float* bias, float eps, Out y, std::int64_t rows,
                std::int64_t width, Stream stream) {
    launch_rows(rows, width, [&](dim3 grid, dim3 threads) {
        typed(x.is_bf16, [&](auto* a) {
            typed(y.is_bf16, [&](auto* b) {
                using A = std::remove_pointer_t<decltype(a)>;
                using B = std::remove_pointer_t<decltype(b)>;
                launch(layer_norm_kernel<A, B>, grid, threads, 0, stream, as<A>(x), gain, bias, eps,
                       as<B>(y), rows, width);
            });
        });
    });
}

void layer_norm_backward(In x, const float* gain, float eps, In dy, float* dx, bool accumulate,
                         std::int64_t rows, std::int64_t width, Stream stream) {
    launch_rows(rows, width, [&](dim3 grid, dim3 threads) {
        typed(x.is_bf16, [&](auto* a) {
            typed(dy.is_bf16, [&](auto* d) {
                using A = std::remove_pointer_t<decltype(a)>;
                using D = std::remove_pointer_t<decltype(d)>;
                launch(layer_norm_backward_kernel<A, D>, grid, threads, 0, stream, as<A>(x), gain,
                       eps, as<D>(dy), dx, accumulate, rows, width);
            });
        });
    });
}

void row_dots(In a, In b, std::int64_t rows, std::int64_t width, float* out, Stream stream) {
    launch_rows(rows, width, [&](dim3 grid, dim3 threads) {
        typed(a.is_bf16, [&](auto* x) {
            typed(b.is_bf16, [&](auto* y) {
                using A = std::remove_pointer_t<decltype(x)>;
                using B = std::remove_pointer_t<decltype(y)>;
                launch(row_dots_kernel<A, B>, grid, threads, 0, stream, as<A>(a), as<B>(b), rows,
                       width, out);
            });
        });
    });
}

void rope(Out x, const std::int32_t* positions, const float* cos, const float* sin, bool inverse,
          std::int64_t tokens, std::int64_t heads, std::int64_t width, std::int64_t half,
          Stream stream) {
    launch_rows(tokens * heads, half, [&](dim3 grid, dim3 threads) {
        typed(x.is_bf16, [&](auto* t) {
            using T = std::remove_pointer_t<decltype(t)>;
            launch(rope_kernel<T>, grid, threads, 0, stream, as<T>(x), positions, cos, sin,
                   inverse ? -1.0f : 1.0f, tokens * heads, heads, width, half);
        });
    });
}

void pick_rows(In in, const std::int32_t* rows, std::int64_t count, std::int64_t width, float scale,
               bool scatter, Out out, Stream stream) {
    launch_rows(count, width, [&](dim3 grid, dim3 threads) {
        typed(in.is_bf16, [&](auto* a) {
            typed(out.is_bf16, [&](auto* b) {
                using A = std::remove_pointer_t<decltype(a)>;
                using B = std::remove_pointer_t<decltype(b)>;
                launch(pick_rows_kernel<A, B>, grid, threads, 0, stream, as<A>(in), rows, count,
                       width, scale, scatter, as<B>(out));
            });
        });
    });
}

void embed_backward(const float* dx, const std::int32_t* ids, std::int64_t count,
                    std::int64_t width, float scale, float* table, Stream stream) {
    launch(embed_backward_kernel, dim3(blocks_of(width, kWarp)), dim3(kWarp), 0, stream, dx, ids,
           count, width, scale, table);
}

void add_rows(In in, const std::int32_t* rows, const float* factors, std::int64_t count,
              std::int64_t width, float* out, Stream stream) {
    launch_rows(count, width, [&](dim3 grid, dim3 threads) {
        typed(in.is_bf16, [&](auto* a) {
            using A = std::remove_pointer_t<decltype(a)>;
            launch(add_rows_kernel<A>, grid, threads, 0, stream, as<A>(in), rows, factors, count,
                   width, out);
        });
    });
}

void scale_rows(Out x, const float* factors, std::int64_t rows, std::int64_t width, Stream stream) {
    launch_rows(rows, width, [&](dim3 grid, dim3 threads) {
        typed(x.is_bf16, [&](auto* t) {
            using T = std::remove_pointer_t<decltype(t)>;
            launch(scale_rows_kernel<T>, grid, threads, 0, stream, as<T>(x), factors, rows, width);
        });
    });
}

void log_softmax(float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t width,
                 float logit_scale, float softcap, const float* dlogprob, float* logprob,
                 Stream stream) {
    constexpr int kSoftmaxThreads = 512;
    launch(log_softmax_kernel, dim3(static_cast<unsigned>(rows)), dim3(kSoftmaxThreads), 0, stream,
           logits, targets, width, logit_scale, softcap, dlogprob, logprob);
}

}  // namespace qshard::cuda
