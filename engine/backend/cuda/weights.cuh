#pragma once

#include "backend/cuda/dispatch.cuh"

/// Stored weights as kernels read them: the value is the table's times absmax in fp32, rounded
/// nowhere.
namespace qshard::cuda {
namespace {

/// Neighbouring elements of a thread: 16 bytes of codes, half a block; or 16 bytes of bf16.
constexpr int kRun = 32, kShortRun = 8;
constexpr int kBlock = 64, kNested = 256;  ///< weights of an absmax, absmax values of an absmax2

/// 4 * kWords bytes, aligned to 16 bytes or to all of them if they are fewer.
template <int kWords>
__device__ __forceinline__ void load_words(const void* from, unsigned (&words)[kWords]) {
    static_assert(kWords <= 2 || kWords % 4 == 0);
    if constexpr (kWords == 1) {
        words[0] = *static_cast<const unsigned*>(from);
    } else if constexpr (kWords == 2) {
        const uint2 two = *static_cast<const uint2*>(from);
        words[0] = two.x, words[1] = two.y;
    } else {
#pragma unroll
        for (int i = 0; i < kWords; i += 4) {
            const uint4 four = static_cast<const uint4*>(from)[i / 4];
            words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
        }
    }
}

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
    /// Whether run() can take the kCount elements from i on: kRun or kShortRun.
    template <int kCount>
    __device__ bool has_run(std::int64_t i) const {
        return (w.first + i) % kCount == 0;
    }
    template <int kCount>
    __device__ void run(std::int64_t i, const float* values, float (&v)[kCount]) const {
        i += w.first;
        unsigned words[kCount / 8];
        load_words(w.codes + i / 2, words);
        const float scale = scale_at(i);
#pragma unroll
        for (int word = 0; word < kCount / 8; ++word) {
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
    /// Within a row.
    template <int kCount>
    __device__ bool has_run(std::int64_t i) const {
        return w.cols % kCount == 0 && (w.first + i) % kCount == 0;
    }
    template <int kCount>
    __device__ void run(std::int64_t i, const float*, float (&v)[kCount]) const {
        i += w.first;
        unsigned words[kCount / 4];
        load_words(w.codes + i, words);
        const float absmax = w.absmax[i / w.cols];
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
            const auto code = static_cast<std::int8_t>(words[j / 4] >> (8 * (j % 4)) & 0xffu);
            v[j] = __fmul_rn(__fmul_rn(static_cast<float>(code), absmax), w.step);
        }
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
    template <int>
    __device__ bool has_run(std::int64_t i) const {
        return reinterpret_cast<std::uintptr_t>(data + i) % 16 == 0;
    }
    template <int kCount>
    __device__ void run(std::int64_t i, const float*, float (&v)[kCount]) const {
        constexpr int kOfWord = 4 / static_cast<int>(sizeof(A));
        unsigned words[kCount / kOfWord];
        load_words(data + i, words);
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
            const unsigned word = words[j / kOfWord];
            const float value = kOfWord == 1 ? __uint_as_float(word)
                                : j % 2 == 0 ? low_of(word)
                                             : high_of(word);
            v[j] = __fmul_rn(value, factor);
        }
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
    template <int kCount>
    __device__ bool has_run(std::int64_t i) const {
        return cols % kCount == 0 && source.template has_run<kCount>(i);
    }
    template <int kCount>
    __device__ void run(std::int64_t i, const float* values, float (&v)[kCount]) const {
        source.run(i, values, v);
        const float factor = factors[i / cols];
#pragma unroll
        for (int j = 0; j < kCount; ++j) v[j] = __fmul_rn(v[j], factor);
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
