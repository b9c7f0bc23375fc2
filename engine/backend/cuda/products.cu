#include "backend/cuda/dispatch.cuh"
#include "backend/cuda/reduce.cuh"

/// Products that cuBLASLt is not asked for: odd shapes, old devices, and LoRA gradients, whose long
/// sums over few outputs are cut into chunks of rows.
namespace qshard::cuda {
namespace {

constexpr int kTile = 64, kInner = 16, kThreads = 256;  // a thread has 4 x 4 outputs

__device__ __forceinline__ float load(const In& x, std::int64_t at) {
    return x.is_bf16 ? to_float(static_cast<const bf16*>(x.data)[at])
                     : static_cast<const float*>(x.data)[at];
}
__device__ __forceinline__ float rounded(float x, bool to_bf16) {
    if (!to_bf16) return x;
    bf16 y;
    assign(y, x);
    return to_float(y);
}

struct Tiles {
    float a[kInner][kTile + 4], b[kInner][kTile + 4];
};

/// sum[i][j] += over [k0, k1) of a(row, k) b(k, col) for this thread's rows and columns; all
/// threads of the block come here together.
__device__ void multiply_tile(const PlainTerm& term, bool round_a, bool round_b, std::int64_t row0,
                              std::int64_t rows, std::int64_t col0, std::int64_t cols,
                              std::int64_t k0, std::int64_t k1, Tiles& tiles, float (&sum)[4][4]) {
    const int thread = static_cast<int>(threadIdx.x);
    for (std::int64_t k = k0; k < k1; k += kInner) {
        for (int e = thread; e < kInner * kTile; e += kThreads) {
            // Neighbouring threads read neighbours, whichever way a lies.
            const bool along_rows = term.row_stride == 1;
            const int i = along_rows ? e / kTile : e % kInner,
                      r = along_rows ? e % kTile : e / kInner;
            const bool inside = row0 + r < rows && k + i < k1;
            tiles.a[i][r] = inside ? rounded(load(term.a, (row0 + r) * term.row_stride +
                                                              (k + i) * term.inner_stride),
                                             round_a)
                                   : 0.0f;
            const bool along_inner = term.b_transposed;
            const int j = along_inner ? e % kInner : e / kTile,
                      c = along_inner ? e / kInner : e % kTile;
            const bool in_b = col0 + c < cols && k + j < k1;
            const std::int64_t at =
                along_inner ? (col0 + c) * term.inner + k + j : (k + j) * cols + col0 + c;
            tiles.b[j][c] = in_b ? rounded(load(term.b, at), round_b) : 0.0f;
        }
        __syncthreads();
        const int r = thread / 16 * 4, c = thread % 16 * 4;
#pragma unroll
        for (int i = 0; i < kInner; ++i) {
#pragma unroll
            for (int x = 0; x < 4; ++x) {
                for (int y = 0; y < 4; ++y)
                    sum[x][y] = fmaf(tiles.a[i][r + x], tiles.b[i][c + y], sum[x][y]);
            }
        }
        __syncthreads();
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    plain_gemm_kernel(PlainTerms terms, bool round_a, const float* bias, T* c, std::int64_t rows,
                      std::int64_t cols, bool accumulate) {
    __shared__ Tiles tiles;
    const std::int64_t row0 = std::int64_t{blockIdx.x} * kTile;
    const std::int64_t col0 = std::int64_t{blockIdx.y} * kTile;
    float sum[4][4] = {};
    for (int t = 0; t < terms.count; ++t) {
        multiply_tile(terms.term[t], round_a, false, row0, rows, col0, cols, 0, terms.term[t].inner,
                      tiles, sum);
    }
    const int thread = static_cast<int>(threadIdx.x);
    for (int x = 0; x < 4; ++x) {
        for (int y = 0; y < 4; ++y) {
            const std::int64_t row = row0 + thread / 16 * 4 + x, col = col0 + thread % 16 * 4 + y;
            if (row >= rows || col >= cols) continue;
            float value = sum[x][y];
            if (bias != nullptr) value += bias[col];
            T& to = c[row * cols + col];
            assign(to, accumulate ? to_float(to) + value : value);
        }
    }
}

/// partial[chunk][m1 - m0][cols]
__global__ void __launch_bounds__(kThreads)
    plain_rows_kernel(PlainTerm term, const RowChunk* chunks, bool round, std::int64_t m0,
                      std::int64_t m1, std::int64_t cols, float* partial) {
    __shared__ Tiles tiles;
    const std::int64_t row0 = m0 + std::int64_t{blockIdx.x} * kTile;
    const std::int64_t col0 = std::int64_t{blockIdx.y} * kTile;
    const RowChunk chunk = chunks[blockIdx.z];
    float sum[4][4] = {};
    multiply_tile(term, round, round, row0, m1, col0, cols, chunk.row, chunk.row + chunk.rows,
                  tiles, sum);
    float* out = partial + std::int64_t{blockIdx.z} * (m1 - m0) * cols;
    const int thread = static_cast<int>(threadIdx.x);
    for (int x = 0; x < 4; ++x) {
        for (int y = 0; y < 4; ++y) {
            const std::int64_t row = row0 + thread / 16 * 4 + x, col = col0 + thread % 16 * 4 + y;
            if (row < m1 && col < cols) out[(row - m0) * cols + col] = sum[x][y];
        }
    }
}

constexpr int kRowsStep = 32;   ///< rows of a and b in shared memory at a time
constexpr int kRowsCols = 128;  ///< columns of b of a block: 4 warps of 32
constexpr int kRowsThreads = 128;
constexpr int kSkew = 8;  ///< elements between stored rows that keep fragments off one bank

/// kRowsStep rows of kCols columns from `in` on, of which `rows` and `cols` exist; zeros elsewhere.
/// `stride`: elements between rows. `wide`: load4().
template <int kCols, class T>
__device__ void load_rows(bf16 (&tile)[kRowsStep][kCols + kSkew], const T* in, std::int64_t rows,
                          std::int64_t stride, std::int64_t cols, bool wide) {
    for (int e = static_cast<int>(threadIdx.x); e < kRowsStep * kCols / 4; e += kRowsThreads) {
        const int r = e / (kCols / 4), c = e % (kCols / 4) * 4;
        const std::int64_t left = r < rows ? cols - c : 0;
        float v[4];
        load4(in + r * stride + c, left >= 4 ? 4 : left > 0 ? static_cast<int>(left) : 0, wide, v);
        store4(&tile[r][c], 4, true, v);
    }
}

/// kA columns of a times kRowsCols of b over one chunk of rows, on the tensor cores.
template <int kA, class A, class B>
__global__ void __launch_bounds__(kRowsThreads)
    rows_kernel(const A* a, const B* b, const RowChunk* chunks, std::int64_t a_cols,
                std::int64_t m0, std::int64_t m1, std::int64_t cols, bool a_wide, bool b_wide,
                float* partial) {
    __shared__ __align__(16) bf16 a_tile[kRowsStep][kA + kSkew];
    __shared__ __align__(16) bf16 b_tile[kRowsStep][kRowsCols + kSkew];
    const std::int64_t first_m = m0 + std::int64_t{blockIdx.x} * kA;
    const std::int64_t col0 = std::int64_t{blockIdx.y} * kRowsCols;
    const RowChunk chunk = chunks[blockIdx.z];
    const std::int64_t n0 = chunk.row, n1 = n0 + chunk.rows;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
    float sum[kA / 16][4][4] = {};
    for (std::int64_t n = n0; n < n1; n += kRowsStep) {
        load_rows<kA>(a_tile, a + n * a_cols + first_m, n1 - n, a_cols, m1 - first_m, a_wide);
        load_rows<kRowsCols>(b_tile, b + n * cols + col0, n1 - n, cols, cols - col0, b_wide);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kRowsStep; k += 16) {
            std::uint32_t right[2][4];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                load_b(right[j], &b_tile[k][warp * 32 + j * 16], kRowsCols + kSkew, lane);
            }
#pragma unroll
            for (int i = 0; i < kA / 16; ++i) {
                std::uint32_t left[4];
                load_a_columns(left, &a_tile[k][i * 16], kA + kSkew, lane);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    multiply(sum[i][j], left, right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
        __syncthreads();
    }
    float* out = partial + std::int64_t{blockIdx.z} * (m1 - m0) * cols;
#pragma unroll
    for (int i = 0; i < kA / 16; ++i) {
        for (int j = 0; j < 4; ++j) {
            for (int e = 0; e < 4; ++e) {
                const std::int64_t m = first_m + i * 16 + lane / 4 + e / 2 * 8;
                const std::int64_t col = col0 + warp * 32 + j * 8 + lane % 4 * 2 + e % 2;
                if (m < m1 && col < cols) out[(m - m0) * cols + col] = sum[i][j][e];
            }
        }
    }
}

__global__ void finish_rows_kernel(const float* partial, const RowSum* sums, std::int64_t a_cols,
                                   std::int64_t m0, std::int64_t m1, std::int64_t cols, float scale,
                                   float* c, std::int64_t stride, bool transposed,
                                   bool accumulate) {
    const std::int64_t count = (m1 - m0) * cols;
    const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (e >= count) return;
    // Neighbouring threads write neighbours.
    const std::int64_t m = transposed ? e % (m1 - m0) : e / cols;
    const std::int64_t k = transposed ? e / (m1 - m0) : e % cols;
    const RowSum chunks = sums[blockIdx.y];
    const float* next = partial + chunks.first * count + m * cols + k;
    float sum = 0;
    for (int chunk = 0; chunk < chunks.count; ++chunk, next += count) sum += *next;
    float& to =
        c[chunks.result * stride + (transposed ? k * a_cols + m0 + m : (m0 + m) * cols + k)];
    to = accumulate ? to + scale * sum : scale * sum;
}

template <int kA>
void launch_rows_kernel(const RowsCall& x, const RowChunk* chunks, std::int64_t count,
                        Stream stream) {
    const dim3 grid(blocks_of(x.m1 - x.m0, kA), blocks_of(x.b_cols, kRowsCols),
                    static_cast<unsigned>(count));
    const bool a_wide = x.a_cols % 4 == 0 && aligned(x.a.data);
    const bool b_wide = x.b_cols % 4 == 0 && aligned(x.b.data);
    typed(x.a.is_bf16, [&](auto* a) {
        typed(x.b.is_bf16, [&](auto* b) {
            using A = std::remove_pointer_t<decltype(a)>;
            using B = std::remove_pointer_t<decltype(b)>;
            launch(rows_kernel<kA, A, B>, grid, dim3(kRowsThreads), 0, stream, as<A>(x.a),
                   as<B>(x.b), chunks, x.a_cols, x.m0, x.m1, x.b_cols, a_wide, b_wide, x.partial);
        });
    });
}

}  // namespace

void plain_gemm(const PlainTerms& terms, bool round_a, const float* bias, Out c, std::int64_t rows,
                std::int64_t cols, bool accumulate, Stream stream) {
    typed(c.is_bf16, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        launch(plain_gemm_kernel<T>, dim3(blocks_of(rows, kTile), blocks_of(cols, kTile)),
               dim3(kThreads), 0, stream, terms, round_a, bias, as<T>(c), rows, cols, accumulate);
    });
}

void gemm_rows_partial(const RowsCall& x, const RowChunk* chunks, std::int64_t count,
                       bool tensor_cores, bool round_to_bf16, Stream stream) {
    if (count == 0) return;
    if (tensor_cores) {
        return x.m1 - x.m0 <= 16 ? launch_rows_kernel<16>(x, chunks, count, stream)
                                 : launch_rows_kernel<64>(x, chunks, count, stream);
    }
    const PlainTerm term{x.a, 1, x.a_cols, x.b, 0, false};
    const dim3 grid(blocks_of(x.m1 - x.m0, kTile), blocks_of(x.b_cols, kTile),
                    static_cast<unsigned>(count));
    launch(plain_rows_kernel, grid, dim3(kThreads), 0, stream, term, chunks, round_to_bf16, x.m0,
           x.m1, x.b_cols, x.partial);
}

int compiled_for() {
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, finish_rows_kernel);
    return error == cudaSuccess ? attributes.ptxVersion : 0;
}

void gemm_rows_finish(const RowsCall& x, const RowSum* sums, std::int64_t count, float scale,
                      float* c, std::int64_t stride, bool transposed, bool accumulate,
                      Stream stream) {
    launch(finish_rows_kernel,
           dim3(blocks_of((x.m1 - x.m0) * x.b_cols, kThreads), static_cast<unsigned>(count)),
           dim3(kThreads), 0, stream, x.partial, sums, x.a_cols, x.m0, x.m1, x.b_cols, scale, c,
           stride, transposed, accumulate);
}

}  // namespace qshard::cuda
