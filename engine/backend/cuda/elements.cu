#include "backend/cuda/dispatch.cuh"
#include "backend/cuda/reduce.cuh"

/// Elementwise operations: a thread has four neighbouring elements at a time.
namespace qshard::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kPerBlock = std::int64_t{kThreads} * 4;

dim3 blocks_for(std::int64_t count) {
    return dim3(static_cast<unsigned>((count + kPerBlock - 1) / kPerBlock));
}

/// First element of this thread's four, and how many of them exist.
struct Four {
    std::int64_t at;
    int count;
};
__device__ __forceinline__ Four my_four(std::int64_t count) {
    const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
    const std::int64_t left = count - at;
    return {at, left >= 4 ? 4 : left > 0 ? static_cast<int>(left) : 0};
}

template <class A, class B>
__global__ void copy_scaled_kernel(const A* x, float scale, B* y, std::int64_t count, bool wide) {
    const Four four = my_four(count);
    if (four.count == 0) return;
    float v[4];
    load4(x + four.at, four.count, wide, v);
    for (int i = 0; i < 4; ++i) v[i] *= scale;
    store4(y + four.at, four.count, wide, v);
}

template <class A>
__global__ void add_scaled_kernel(const A* x, float scale, float* y, std::int64_t count,
                                  bool wide) {
    const Four four = my_four(count);
    if (four.count == 0) return;
    float v[4], sum[4];
    load4(x + four.at, four.count, wide, v);
    load4(y + four.at, four.count, wide, sum);
    for (int i = 0; i < 4; ++i) sum[i] = __fadd_rn(sum[i], __fmul_rn(scale, v[i]));
    store4(y + four.at, four.count, wide, sum);
}

/// A thread has four columns of one part, counted over all parts and then over the rows.
template <class T>
__global__ void copy_columns_kernel(SideBySide parts, std::int64_t rows, unsigned fours_of_row,
                                    T* out, std::int64_t stride, bool wide) {
    const unsigned index = blockIdx.x * kThreads + threadIdx.x;
    const std::int64_t row = index / fours_of_row;
    if (row >= rows) return;
    std::int64_t col = std::int64_t{index % fours_of_row} * 4;
    int p = 0;
    while (col >= parts.part[p].width) col -= parts.part[p++].width;
    const Columns& part = parts.part[p];
    const std::int64_t from = row * part.cols + col, left = part.cols - col;
    const int count = left >= 4 ? 4 : left > 0 ? static_cast<int>(left) : 0;
    float v[4];
    if (part.in.is_bf16) {
        load4(static_cast<const bf16*>(part.in.data) + from, count, wide, v);
    } else {
        load4(static_cast<const float*>(part.in.data) + from, count, wide, v);
    }
    store4(out + row * stride + part.at + col, 4, true, v);
}

template <class T>
__global__ void add_bias_kernel(const float* in, const float* bias, T* c, std::int64_t cols,
                                bool accumulate, bool wide) {
    const Four four = my_four(cols);
    if (four.count == 0) return;
    const std::int64_t at = std::int64_t{blockIdx.y} * cols + four.at;
    float sum[4], v[4];
    load4(in + at, four.count, wide, sum);
    if (bias != nullptr) {
        load4(bias + four.at, four.count, wide, v);
        for (int i = 0; i < 4; ++i) sum[i] += v[i];
    }
    if (accumulate) {
        load4(c + at, four.count, wide, v);
        for (int i = 0; i < 4; ++i) sum[i] = v[i] + sum[i];
    }
    store4(c + at, four.count, wide, sum);
}

constexpr float kGeluFactor = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

/// act(x) and its slope.
__device__ __forceinline__ float activation(Activation kind, float x, float& slope) {
    switch (kind) {
        case Activation::kSilu: {
            const float s = 1.0f / (1.0f + expf(-x));
            slope = s * (1.0f + x * (1.0f - s));
            return x * s;
        }
        case Activation::kGeluTanh: {
            const float t = tanhf(kGeluFactor * (x + kGeluCubic * x * x * x));
            const float inner = kGeluFactor * (1.0f + 3.0f * kGeluCubic * x * x);
            slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
            return 0.5f * x * (1.0f + t);
        }
        case Activation::kGeluErf: {
            const float e = 0.5f * (1.0f + erff(x * 0.7071067811865476f));
            slope = e + x * 0.3989422804014327f * expf(-0.5f * x * x);
            return x * e;
        }
        case Activation::kRelu:
            slope = x > 0.0f ? 1.0f : 0.0f;
            return fmaxf(x, 0.0f);
    }
    return x;
}

/// A thread has the eight elements of a block of the mask's stream.
template <class A, class B>
__global__ void dropout_kernel(DropoutMask mask, float scale, const A* x, bool accumulate, B* y,
                               std::int64_t count, bool wide) {
    const std::int64_t first = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * 8;
    if (first >= count) return;
    const PhiloxBlock block = mask.block_of(first);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const std::int64_t at = first + 4 * half, left = count - at;
        if (left <= 0) return;
        const int four = left < 4 ? static_cast<int>(left) : 4;
        float v[4], sum[4] = {};
        load4(x + at, four, wide, v);
        if (accumulate) load4(y + at, four, wide, sum);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bool kept = mask.keeps(block, static_cast<std::uint32_t>(4 * half + i));
            const float value = kept ? __fmul_rn(scale, v[i]) : 0.0f;
            v[i] = accumulate ? __fadd_rn(sum[i], value) : value;
        }
        store4(y + at, four, wide, v);
    }
}

template <class T>
__global__ void activate_kernel(Activation kind, const T* gate, const T* up, T* out,
                                std::int64_t count, bool wide) {
    const Four four = my_four(count);
    if (four.count == 0) return;
    float u[4], g[4], slope;
    load4(up + four.at, four.count, wide, u);
    if (gate != nullptr) load4(gate + four.at, four.count, wide, g);
    for (int i = 0; i < 4; ++i) {
        u[i] =
            gate == nullptr ? activation(kind, u[i], slope) : activation(kind, g[i], slope) * u[i];
    }
    store4(out + four.at, four.count, wide, u);
}

template <class T, class D, class G, class U>
__global__ void activate_backward_kernel(Activation kind, const T* gate, const T* up, const D* dout,
                                         G* dgate, U* dup, std::int64_t count, bool wide) {
    const Four four = my_four(count);
    if (four.count == 0) return;
    float u[4], g[4], d[4], slope = 0;
    load4(up + four.at, four.count, wide, u);
    load4(dout + four.at, four.count, wide, d);
    if (gate == nullptr) {
        for (int i = 0; i < 4; ++i) {
            activation(kind, u[i], slope);
            d[i] *= slope;
        }
        store4(dup + four.at, four.count, wide, d);
        return;
    }
    load4(gate + four.at, four.count, wide, g);
    for (int i = 0; i < 4; ++i) {
        const float a = activation(kind, g[i], slope);
        g[i] = d[i] * u[i] * slope;
        u[i] = d[i] * a;
    }
    store4(dgate + four.at, four.count, wide, g);
    store4(dup + four.at, four.count, wide, u);
}

}  // namespace

void copy_scaled(In x, float scale, Out y, std::int64_t count, Stream stream) {
    const bool wide = aligned(x.data) && aligned(y.data);
    typed(x.is_bf16, [&](auto* a) {
        typed(y.is_bf16, [&](auto* b) {
            using A = std::remove_pointer_t<decltype(a)>;
            using B = std::remove_pointer_t<decltype(b)>;
            launch(copy_scaled_kernel<A, B>, blocks_for(count), dim3(kThreads), 0, stream, as<A>(x),
                   scale, as<B>(y), count, wide);
        });
    });
}

void add_scaled(In x, float scale, float* y, std::int64_t count, Stream stream) {
    const bool wide = aligned(x.data) && aligned(y);
    typed(x.is_bf16, [&](auto* a) {
        using A = std::remove_pointer_t<decltype(a)>;
        launch(add_scaled_kernel<A>, blocks_for(count), dim3(kThreads), 0, stream, as<A>(x), scale,
               y, count, wide);
    });
}

void copy_columns(const SideBySide& parts, std::int64_t rows, Out out, std::int64_t stride,
                  Stream stream) {
    bool wide = true;
    std::int64_t width = 0;
    for (int p = 0; p < parts.count; ++p) {
        wide = wide && parts.part[p].cols % 4 == 0 && aligned(parts.part[p].in.data);
        width += parts.part[p].width;
    }
    typed(out.is_bf16, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        launch(copy_columns_kernel<T>, blocks_for(rows * width), dim3(kThreads), 0, stream, parts,
               rows, static_cast<unsigned>(width / 4), as<T>(out), stride, wide);
    });
}

void add_bias(const float* in, const float* bias, Out c, std::int64_t rows, std::int64_t cols,
              bool accumulate, Stream stream) {
    // Parts of a matrix begin at any of its rows: with few columns of bf16 at multiples of 8 bytes.
    const bool wide = cols % 4 == 0 && aligned(in) && aligned(bias) &&
                      reinterpret_cast<std::uintptr_t>(c.data) % (c.is_bf16 ? 8 : 16) == 0;
    for_row_blocks(rows, [&](std::int64_t row, unsigned count) {
        const dim3 grid(blocks_for(cols).x, count);
        typed(c.is_bf16, [&](auto* t) {
            using T = std::remove_pointer_t<decltype(t)>;
            launch(add_bias_kernel<T>, grid, dim3(kThreads), 0, stream, in + row * cols, bias,
                   as<T>(c) + row * cols, cols, accumulate, wide);
        });
    });
}

void dropout(const DropoutMask& mask, In x, bool accumulate, Out y, std::int64_t count,
             Stream stream) {
    const bool wide = aligned(x.data) && aligned(y.data);
    typed(x.is_bf16, [&](auto* a) {
        typed(y.is_bf16, [&](auto* b) {
            using A = std::remove_pointer_t<decltype(a)>;
            using B = std::remove_pointer_t<decltype(b)>;
            launch(dropout_kernel<A, B>, dim3(blocks_of(count, std::int64_t{kThreads} * 8)),
                   dim3(kThreads), 0, stream, mask, mask.scale(), as<A>(x), accumulate, as<B>(y),
                   count, wide);
        });
    });
}

void activate(Activation kind, In gate, In up, Out out, std::int64_t count, Stream stream) {
    const bool wide = aligned(gate.data) && aligned(up.data) && aligned(out.data);
    typed(up.is_bf16, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        launch(activate_kernel<T>, blocks_for(count), dim3(kThreads), 0, stream, kind, as<T>(gate),
               as<T>(up), as<T>(out), count, wide);
    });
}

void activate_backward(Activation kind, In gate, In up, In dout, Out dgate, Out dup,
                       std::int64_t count, Stream stream) {
    const bool wide = aligned(gate.data) && aligned(up.data) && aligned(dout.data) &&
                      aligned(dgate.data) && aligned(dup.data);
    typed(up.is_bf16, [&](auto* t) {
        typed(dout.is_bf16, [&](auto* d) {
            typed(dgate.is_bf16, [&](auto* g) {
                typed(dup.is_bf16, [&](auto* u) {
                    using T = std::remove_pointer_t<decltype(t)>;
                    using D = std::remove_pointer_t<decltype(d)>;
                    using G = std::remove_pointer_t<decltype(g)>;
                    using U = std::remove_pointer_t<decltype(u)>;
                    launch(activate_backward_kernel<T, D, G, U>, blocks_for(count), dim3(kThreads),
                           0, stream, kind, as<T>(gate), as<T>(up), as<D>(dout), as<G>(dgate),
                           as<U>(dup), count, wide);
                });
            });
        });
    });
}

}  // namespace qshard::cuda
