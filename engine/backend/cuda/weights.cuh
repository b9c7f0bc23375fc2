#pragma once

#include "backend/cuda/dispatch.cuh"

/// Stored weights as kernels read them: the value is the table's times absmax in fp32, rounded
/// nowhere.
namespace qshard::cuda {
namespace {

constexpr int kRun = 32;  ///< neighbouring elements of a thread: 16 bytes of codes, half a block
constexpr int kBlock = 64, kNested = 256;  ///< weights of an absmax, absmax values of an absmax2

/// Where elements come from; linear indices in row-major order.
struct CodeSource {
    CodedWeight w;

    __device__ float scale_at(std::int64_t i) const {
        const std::int64_t block = i / kBlock;
        if (w.absmax != nullptr) return w.absmax[block];
        const float top = w.absmax2[block / kNested];
        return __fadd_rn(__fmul_rn(w.dynamic_map[w.absmax_codes[block]], top), *w.offset);
    }
    __device__ void share(float* values) const {
        if (threadIdx.x < 16) values[threadIdx.x] = w.table[threadIdx.x];
    }
    /// `values` is the table in shared memory.
    __device__ float at(std::int64_t i, const float* values) const {
        i += w.first;
        const int both = w.codes[i / 2];
        return __fmul_rn(values[i % 2 == 0 ? both >> 4 : both & 15], scale_at(i));
    }
    /// Whether run() can take the elements from i on.
    __device__ bool has_run(std::int64_t i) const { return (w.first + i) % kRun == 0; }
    __device__ void run(std::int64_t i, const float* values, float (&v)[kRun]) const {
        i += w.first;
        const uint4 all = *reinterpret_cast<const uint4*>(w.codes + i / 2);
        const unsigned words[4] = {all.x, all.y, all.z, all.w};
        const float scale = scale_at(i);
#pragma unroll
        for (int word = 0; word < 4; ++word) {
#pragma unroll
            for (int b = 0; b < 4; ++b) {
                const unsigned both = words[word] >> (8 * b);
                v[8 * word + 2 * b] = __fmul_rn(values[both >> 4 & 15], scale);
                v[8 * word + 2 * b + 1] = __fmul_rn(values[both & 15], scale);
            }
        }
    }
};

struct Int8Source {
    Int8Weight w;

    __device__ void share(float*) const {}
    __device__ float at(std::int64_t i, const float*) const {
        i += w.first;
        return __fmul_rn(__fmul_rn(static_cast<float>(w.codes[i]), w.absmax[i / w.cols]), w.step);
    }
    __device__ bool has_run(std::int64_t) const { return true; }
    __device__ void run(std::int64_t i, const float* values, float (&v)[kRun]) const {
#pragma unroll
        for (int j = 0; j < kRun; ++j) v[j] = at(i + j, values);
    }
};

template <class A>
struct PlainSource {
    const A* data;
    float factor;

    __device__ void share(float*) const {}
    __device__ float at(std::int64_t i, const float*) const {
        return __fmul_rn(to_float(data[i]), factor);
    }
    __device__ bool has_run(std::int64_t) const { return true; }
    __device__ void run(std::int64_t i, const float* values, float (&v)[kRun]) const {
#pragma unroll
        for (int j = 0; j < kRun; ++j) v[j] = at(i + j, values);
    }
};

template <class Source>
__device__ void share_table(const Source& source, float* values) {
    source.share(values);
    __syncthreads();
}

/// Rows times their factors.
template <class Source>
struct ScaledSource {
    Source source;
    const float* factors;
    std::int64_t cols;

    __device__ void share(float* values) const { source.share(values); }
    __device__ float at(std::int64_t i, const float* values) const {
        return __fmul_rn(source.at(i, values), factors[i / cols]);
    }
    /// Runs are asked for at multiples of their length, so that none is in two rows.
    __device__ bool has_run(std::int64_t i) const { return cols % kRun == 0 && source.has_run(i); }
    __device__ void run(std::int64_t i, const float* values, float (&v)[kRun]) const {
        source.run(i, values, v);
        const float factor = factors[i / cols];
#pragma unroll
        for (int j = 0; j < kRun; ++j) v[j] = __fmul_rn(v[j], factor);
    }
};

/// Calls f with the source of a weight, without its row factors.
template <class F>
void with_source(const StoredWeight& weight, const F& f) {
    switch (weight.kind) {
        case WeightKind::kCodes:
            return f(CodeSource{weight.codes});
        case WeightKind::kInt8:
            return f(Int8Source{weight.int8});
        case WeightKind::kPlain:
            return typed(weight.plain.is_bf16, [&](auto* a) {
                using A = std::remove_pointer_t<decltype(a)>;
                f(PlainSource<A>{as<A>(weight.plain), weight.factor});
            });
    }
}

}  // namespace
}  // namespace qshard::cuda
