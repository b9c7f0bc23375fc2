#include "backend/cuda/dispatch.cuh"

/// Weights from their stored form to matrices of gemm operands. The value is the table's times
/// absmax in fp32, rounded once.
namespace qshard::cuda {
namespace {

constexpr int kRun = 32;  ///< neighbouring elements of a thread: 16 bytes of codes, half a block
constexpr int kThreads = 128;
constexpr int kTile = 64;  ///< side of a transposed tile: 128 threads have a run each

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

/// Sixteen bytes of results at a time.
__device__ __forceinline__ void store_run(bf16* out, const float (&v)[kRun]) {
#pragma unroll
    for (int j = 0; j < kRun; j += 8) {
        *reinterpret_cast<uint4*>(out + j) =
            uint4{pair(v[j], v[j + 1]), pair(v[j + 2], v[j + 3]), pair(v[j + 4], v[j + 5]),
                  pair(v[j + 6], v[j + 7])};
    }
}
__device__ __forceinline__ void store_run(float* out, const float (&v)[kRun]) {
#pragma unroll
    for (int j = 0; j < kRun; j += 4)
        *reinterpret_cast<float4*>(out + j) = float4{v[j], v[j + 1], v[j + 2], v[j + 3]};
}

template <class Source, class T>
__global__ void expand_kernel(const __grid_constant__ Source source, std::int64_t count, T* out) {
    __shared__ float values[16];
    share_table(source, values);
    const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kRun;
    if (at >= count) return;
    if (at + kRun <= count && source.has_run(at)) {
        float v[kRun];
        source.run(at, values, v);
        store_run(out + at, v);
        return;
    }
    for (std::int64_t i = at; i < at + kRun && i < count; ++i) assign(out[i], source.at(i, values));
}

/// out[cols, rows] from a source of [rows, cols], a tile a block.
template <class Source, class T>
__global__ void expand_transposed_kernel(const __grid_constant__ Source source, std::int64_t rows,
                                         std::int64_t cols, T* out) {
    __shared__ float values[16];
    __shared__ __align__(16)
        T tile[kTile][kTile + 16 / sizeof(T)];  // by column; rows stay aligned to 16 bytes
    share_table(source, values);
    const std::int64_t row0 = std::int64_t{blockIdx.y} * kTile;
    const std::int64_t col0 = std::int64_t{blockIdx.x} * kTile;
    {
        const int r = static_cast<int>(threadIdx.x) / 2;
        const int c = static_cast<int>(threadIdx.x) % 2 * kRun;
        const std::int64_t row = row0 + r, col = col0 + c, at = row * cols + col;
        if (row < rows && col + kRun <= cols && source.has_run(at)) {
            float v[kRun];
            source.run(at, values, v);
#pragma unroll
            for (int j = 0; j < kRun; ++j) assign(tile[c + j][r], v[j]);
        } else if (row < rows) {
            for (int j = 0; j < kRun && col + j < cols; ++j)
                assign(tile[c + j][r], source.at(at + j, values));
        }
    }
    __syncthreads();
    constexpr int kPiece = 16 / sizeof(T), kPieces = kTile / kPiece;
    for (int p = static_cast<int>(threadIdx.x); p < kTile * kPieces; p += kThreads) {
        const int c = p / kPieces, r = p % kPieces * kPiece;
        if (col0 + c >= cols) continue;
        T* to = out + (col0 + c) * rows + row0 + r;
        if (row0 + r + kPiece <= rows && rows % kPiece == 0) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&tile[c][r]);
        } else {
            for (int j = 0; j < kPiece && row0 + r + j < rows; ++j) to[j] = tile[c][r + j];
        }
    }
}

template <class Source>
void expand_from(const Source& source, std::int64_t rows, std::int64_t cols, bool transposed,
                 Out out, Stream stream) {
    typed(out.is_bf16, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        if (!transposed) {
            launch(expand_kernel<Source, T>, dim3(blocks_of(rows * cols, kThreads * kRun)),
                   dim3(kThreads), 0, stream, source, rows * cols, as<T>(out));
            return;
        }
        // Rows are the output's columns: blocks along y reach 65,535 * 64 rows.
        launch(expand_transposed_kernel<Source, T>,
               dim3(blocks_of(cols, kTile), blocks_of(rows, kTile)), dim3(kThreads), 0, stream,
               source, rows, cols, as<T>(out));
    });
}

}  // namespace

void expand_codes(const CodedWeight& weight, std::int64_t rows, std::int64_t cols, bool transposed,
                  Out out, Stream stream) {
    expand_from(CodeSource{weight}, rows, cols, transposed, out, stream);
}

void expand_int8(const Int8Weight& weight, std::int64_t rows, std::int64_t cols, bool transposed,
                 Out out, Stream stream) {
    expand_from(Int8Source{weight}, rows, cols, transposed, out, stream);
}

void expand_plain(In weight, float factor, std::int64_t rows, std::int64_t cols, bool transposed,
                  Out out, Stream stream) {
    typed(weight.is_bf16, [&](auto* a) {
        using A = std::remove_pointer_t<decltype(a)>;
        expand_from(PlainSource<A>{as<A>(weight), factor}, rows, cols, transposed, out, stream);
    });
}

}  // namespace qshard::cuda
