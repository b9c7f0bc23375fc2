#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dropout.h"
#include "spec/model_config.h"

struct CUstream_st;

/// The kernels of the CUDA backend as host functions: every call is one or a few launches on
/// `stream`. Pointers are the device's; shapes were checked by the backend. A launch that failed
/// shows in cudaGetLastError(). Plain types only: nvcc does not compile {fmt} 9, which backend.h
/// brings.
namespace qshard::cuda {

using Stream = CUstream_st*;

/// Elements at `data`, fp32 or bf16.
struct In {
    const void* data;
    bool is_bf16;
};
struct Out {
    void* data;
    bool is_bf16;
};

// elements.cu
void copy_scaled(In x, float scale, Out y, std::int64_t count, Stream stream);
/// y += scale * x
void add_scaled(In x, float scale, float* y, std::int64_t count, Stream stream);
/// in[rows, cols], and the columns of another matrix where it goes: `width` of them, a multiple of
/// 4, from a multiple of 4 on, those beyond cols zeros.
struct Columns {
    In in;
    std::int64_t cols, width, at;
};
constexpr int kMaxTerms = 8;
struct SideBySide {
    Columns part[kMaxTerms];
    int count;
};
/// Copies every part into its columns of out (aligned to 16 bytes), whose rows are `stride` apart,
/// a multiple of 4; at most 2^32 elements.
void copy_columns(const SideBySide& parts, std::int64_t rows, Out out, std::int64_t stride,
                  Stream stream);
/// c[rows, cols] = (or +=) in[rows, cols] + bias[cols], which may be null.
void add_bias(const float* in, const float* bias, Out c, std::int64_t rows, std::int64_t cols,
              bool accumulate, Stream stream);
void dropout(const DropoutMask& mask, In x, bool accumulate, Out y, std::int64_t count,
             Stream stream);
void activate(Activation kind, In gate, In up, Out out, std::int64_t count, Stream stream);
void activate_backward(Activation kind, In gate, In up, In dout, Out dgate, Out dup,
                       std::int64_t count, Stream stream);

// rows.cu
void rms_norm(In x, const float* gain, float eps, bool offset, Out y, std::int64_t rows,
              std::int64_t width, Stream stream);
void rms_norm_backward(In x, const float* gain, float eps, bool offset, In dy, float* dx,
                       bool accumulate, std::int64_t rows, std::int64_t width, Stream stream);
void layer_norm(In x, const float* gain, const float* bias, float eps, Out y, std::int64_t rows,
                std::int64_t width, Stream stream);
void layer_norm_backward(In x, const float* gain, float eps, In dy, float* dx, bool accumulate,
                         std::int64_t rows, std::int64_t width, Stream stream);
/// positions[tokens] on the device.
void rope(Out x, const std::int32_t* positions, const float* cos, const float* sin, bool inverse,
          std::int64_t tokens, std::int64_t heads, std::int64_t width, std::int64_t half,
          Stream stream);
/// out[i] = scale * in[rows[i]], or (scatter) out[rows[i]] = scale * in[i].
void pick_rows(In in, const std::int32_t* rows, std::int64_t count, std::int64_t width, float scale,
               bool scatter, Out out, Stream stream);
/// table[ids[n]] += scale * dx[n], n ascending, negative ids passed over; ids on the device.
void embed_backward(const float* dx, const std::int32_t* ids, std::int64_t count,
                    std::int64_t width, float scale, float* table, Stream stream);
/// out[rows[i]] += factors[i] * in[i]; rows and factors on the device.
void add_rows(In in, const std::int32_t* rows, const float* factors, std::int64_t count,
              std::int64_t width, float* out, Stream stream);
void scale_rows(Out x, const float* factors, std::int64_t rows, std::int64_t width, Stream stream);
/// out[n] = sum of a[n] * b[n] in double.
void row_dots(In a, In b, std::int64_t rows, std::int64_t width, float* out, Stream stream);
void log_softmax(float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t width,
                 float logit_scale, float softcap, const float* dlogprob, float* logprob,
                 Stream stream);

// optimizer.cu
constexpr std::int64_t kSquaresChunk = 4096;
/// sums[i] = sum of squares of chunk i, in order.
void squares_of_chunks(const float* x, std::int64_t count, double* sums, Stream stream);
struct AdamWFactors {
    float keep, beta1, rest1, beta2, rest2, step_size, root, epsilon;
};
/// p = keep p - step_size m / (sqrt(v) / root + epsilon)
void adamw(const AdamWFactors& factors, float* parameter, const float* gradient, float* exp_avg,
           float* exp_avg_sq, std::int64_t count, Stream stream);
struct SgdFactors {
    float learning_rate, momentum, weight_decay;
    bool first;  ///< the momentum buffer becomes the gradient
};
void sgd(const SgdFactors& factors, float* parameter, const float* gradient, float* momentum,
         std::int64_t count, Stream stream);
struct RmsPropFactors {
    float learning_rate, alpha, epsilon, weight_decay, momentum;
};
void rmsprop(const RmsPropFactors& factors, float* parameter, const float* gradient,
             float* square_avg, float* momentum, std::int64_t count, Stream stream);

// expand.cu
/// A 4-bit weight: element i has code first + i of `codes`, even ones in the high nibble, a value
/// of `table`, and the absmax of block (first + i) / 64.
struct CodedWeight {
    const std::uint8_t* codes;
    std::int64_t first;
    float table[16];
    const float* absmax;  ///< null: dynamic_map[absmax_codes] * absmax2 + offset
    const std::uint8_t* absmax_codes;
    const float *absmax2, *offset, *dynamic_map;
};
/// Rows of int8: element i is code first + i times the absmax of its row, times `step`.
struct Int8Weight {
    const std::int8_t* codes;
    std::int64_t first, cols;
    const float* absmax;
    float step;
};
enum class WeightKind : std::uint8_t { kCodes, kInt8, kPlain };
struct StoredWeight {
    WeightKind kind;
    std::int64_t rows, cols;
    CodedWeight codes;
    Int8Weight int8;
    In plain;  ///< times `factor`
    float factor;
    const float* row_factors;  ///< [rows] or null
};
/// out[rows, cols], or its transpose, = the weight's values times its row factors.
void expand(const StoredWeight& weight, bool transposed, Out out, Stream stream);

// magnitudes.cu
struct RowNorms {
    std::int64_t rows, cols, r;
    const float *a, *b;  ///< [r, cols], [rows, r]
    float scale;
    const float* magnitude;  ///< null: norms
    float* out;
};
/// out[o] = norm of row o of the weight (without its row factors) + scale b a; or magnitude / that.
/// r <= 1024.
void row_norms(const StoredWeight& weight, const RowNorms& norms, Stream stream);
struct MagnitudeBackward {
    std::int64_t rows, cols, r;
    const float *bias, *magnitude, *factor;  ///< [cols]; bias may be null
    float *db, *dmagnitude;                  ///< [cols, r], [cols]
};
/// dmagnitude[c] = sum over n of dy[n, c] (y[n, c] - bias[c]) / magnitude[c]; db[c] *= factor[c].
void magnitude_backward(In dy, In y, const MagnitudeBackward& x, Stream stream);

// products.cu
/// One product of plain_gemm(): element (m, k) of a at a[m * row_stride + k * inner_stride].
struct PlainTerm {
    In a;
    std::int64_t row_stride, inner_stride;
    In b;  ///< [inner, cols]
    std::int64_t inner;
    bool b_transposed;  ///< [cols, inner]
};
struct PlainTerms {
    PlainTerm term[kMaxTerms];
    int count;
};
/// c[rows, cols] = (or +=) the sum of the terms (+ bias), fp32 multiply-adds in order; round_a: a
/// is rounded to bf16 first.
void plain_gemm(const PlainTerms& terms, bool round_a, const float* bias, Out c, std::int64_t rows,
                std::int64_t cols, bool accumulate, Stream stream);

/// Most rows of a and b that one partial sum of gemm_rows covers.
constexpr std::int64_t kRowsChunk = 512;
struct RowChunk {
    std::int32_t row, rows;
};
/// A result: the sum of partial sums first .. first + count - 1.
struct RowSum {
    std::int32_t result, first, count;
};
struct RowsCall {
    In a, b;  ///< a[rows, a_cols], b[rows, b_cols]
    std::int64_t a_cols, b_cols;
    std::int64_t m0, m1;  ///< the columns of a at hand
    float* partial;       ///< [chunks][m0 .. m1][b_cols]
};
/// partial[chunk][m][k] = sums of a[n, m] b[n, k] over the rows of each chunk, ascending.
/// tensor_cores: bf16 products on them (compute capability 8 or newer), else fp32 multiply-adds of
/// operands rounded to bf16 if round_to_bf16. Chunks on the device.
void gemm_rows_partial(const RowsCall& call, const RowChunk* chunks, std::int64_t count,
                       bool tensor_cores, bool round_to_bf16, Stream stream);
/// c[m0 .. m1][b_cols] (transposed: c[b_cols][m]) = (or += if accumulate) scale * sum of the chunks
/// in order, for each of `sums` (on the device); result i is i * stride elements behind c.
void gemm_rows_finish(const RowsCall& call, const RowSum* sums, std::int64_t count, float scale,
                      float* c, std::int64_t stride, bool transposed, bool accumulate,
                      Stream stream);

/// Compute capability, times ten, that the kernels in use were compiled for: a driver takes those
/// of an older GPU where a program has no others.
int compiled_for();

// attention_*.cu
/// Consecutive queries of one sequence: row i of the tile is row q_row + i of q and sees `visible`
/// + i keys (at most the window's last) of those that begin at row k_row of k.
struct QueryTile {
    std::int32_t q_row, rows, k_row, visible;
};
/// Consecutive keys of one document, and its length: key i of the tile is row row + first + i, and
/// query j of the document sees it if j >= first + i (and within the window).
struct KeyTile {
    std::int32_t row, first, count, length;
};
struct AttentionCall {
    std::int64_t heads, kv_heads, width;
    float scale, softcap;
    std::int64_t window;
    const void *q, *k, *v;
    bool is_bf16;
    void* out;         ///< forward: written
    float* lse;        ///< forward: written, may be null
    const void* dout;  ///< backward; of its own dtype
    bool dout_is_bf16;
    float* delta;  ///< [Nq, heads]: row_dots() of dout and out, head by head
    float *dq, *dk, *dv;
};
/// Whether the tensor cores' kernels take heads of this width.
bool tensor_core_width(std::int64_t width);
/// Queries and keys of a tile of theirs.
int forward_tile(std::int64_t width);
int query_tile(std::int64_t width);  ///< backward, dq
int key_tile(std::int64_t width);    ///< backward, dk and dv
void attention_forward(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                       Stream stream);
void attention_dq(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                  Stream stream);
void attention_dkdv(const AttentionCall& call, const KeyTile* tiles, std::int64_t count,
                    Stream stream);
/// The same by fp32 multiply-adds, for any width to 256 and any dtype; tiles of kPlainTile.
constexpr int kPlainTile = 4;
void plain_attention_forward(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                             Stream stream);
void plain_attention_dq(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                        Stream stream);
void plain_attention_dkdv(const AttentionCall& call, const KeyTile* tiles, std::int64_t count,
                          Stream stream);

}  // namespace qshard::cuda
