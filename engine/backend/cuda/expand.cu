#include "backend/cuda/weights.cuh"

/// Weights from their stored form to matrices of gemm operands, rounded once.
namespace qshard::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = 64;  ///< side of a transposed tile: 128 threads have a run each

/// Sixteen bytes of results at a time.
__device__ __forceinline__ void store_run(bf16* out, const float (&v)[kShortRun]) {
    *reinterpret_cast<uint4*>(out) =
        uint4{pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7])};
}
__device__ __forceinline__ void store_run(float* out, const float (&v)[kShortRun]) {
#pragma unroll
    for (int j = 0; j < kShortRun; j += 4)
        *reinterpret_cast<float4*>(out + j) = float4{v[j], v[j + 1], v[j + 2], v[j + 3]};
}

/// A warp's threads write neighbouring runs, so that it fills whole sectors of memory.
template <class Source, class T>
__global__ void expand_kernel(const __grid_constant__ Source source, std::int64_t count, T* out) {
    __shared__ float values[16];
    share_table(source, values);
#pragma unroll
    for (int piece = 0; piece < kRun / kShortRun; ++piece) {
        const std::int64_t at =
            (std::int64_t{blockIdx.x} * (kRun / kShortRun) + piece) * kThreads * kShortRun +
            threadIdx.x * kShortRun;
        if (at + kShortRun <= count && source.template has_run<kShortRun>(at)) {
            float v[kShortRun];
            source.run(at, values, v);
            store_run(out + at, v);
            continue;
        }
        for (std::int64_t i = at; i < at + kShortRun && i < count; ++i)
            assign(out[i], source.at(i, values));
    }
}

/// out[cols, rows] from a source of [rows, cols], a tile a block.
template <class Source, class T>
__global__ void expand_transposed_kernel(const __grid_constant__ Source source, std::int64_t rows,
                                         std::int64_t cols, T* out) {
    __shared__ float values[16];
    __shared__ __align__(16)
        T tile[kTile][kTile + 16 / sizeof(T)];  // by column; rows stay aligned to 16 bytes
    // Threads of a warp write columns c and c + 32 at once: their rows are kept in other banks.
    const auto row_at = [](int c, int r) {
        return c & 32 ? r ^ static_cast<int>(64 / sizeof(T)) : r;
    };
    share_table(source, values);
    const std::int64_t row0 = std::int64_t{blockIdx.y} * kTile;
    const std::int64_t col0 = std::int64_t{blockIdx.x} * kTile;
    {
        const int r = static_cast<int>(threadIdx.x) / 2;
        const int c = static_cast<int>(threadIdx.x) % 2 * kRun;
        const std::int64_t row = row0 + r, col = col0 + c, at = row * cols + col;
        if (row < rows && col + kRun <= cols && source.template has_run<kRun>(at)) {
            float v[kRun];
            source.run(at, values, v);
#pragma unroll
            for (int j = 0; j < kRun; ++j) assign(tile[c + j][row_at(c + j, r)], v[j]);
        } else if (row < rows) {
            for (int j = 0; j < kRun && col + j < cols; ++j)
                assign(tile[c + j][row_at(c + j, r)], source.at(at + j, values));
        }
    }
    __syncthreads();
    constexpr int kPiece = 16 / sizeof(T), kPieces = kTile / kPiece;
    for (int p = static_cast<int>(threadIdx.x); p < kTile * kPieces; p += kThreads) {
        const int c = p / kPieces, r = p % kPieces * kPiece;
        if (col0 + c >= cols) continue;
        T* to = out + (col0 + c) * rows + row0 + r;
        if (row0 + r + kPiece <= rows && rows % kPiece == 0) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&tile[c][row_at(c, r)]);
        } else {
            for (int j = 0; j < kPiece && row0 + r + j < rows; ++j)
                to[j] = tile[c][row_at(c, r + j)];
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

void expand(const StoredWeight& weight, bool transposed, Out out, Stream stream) {
    with_source(weight, [&](auto source) {
        if (weight.row_factors == nullptr) {
            expand_from(source, weight.rows, weight.cols, transposed, out, stream);
        } else {
            expand_from(ScaledSource<decltype(source)>{source, weight.row_factors, weight.cols},
                        weight.rows, weight.cols, transposed, out, stream);
        }
    });
}

}  // namespace qshard::cuda
