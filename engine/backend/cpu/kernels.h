#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

/// The kernel sets of the CPU backend: tables of functions, one table per instruction set, each
/// compiled in a source file of its own with its own machine flags. Kernels are single-threaded;
/// cutting work into tasks is the backend's business. Plain pointers only: nothing inline from the
/// library may be instantiated in those files, or the linker could keep a copy this processor
/// cannot run.
namespace qshard::cpu {

/// Elements at `data`, fp32 or bf16.
struct In {
    const void* data;
    bool is_bf16;
};
struct Out {
    void* data;
    bool is_bf16;
};

/// Keys of one attention block; a multiple of every kernel's strip.
constexpr std::int64_t kKeyBlock = 96;
/// Queries (times heads of a group) of one attention block.
constexpr std::int64_t kQueryColumns = 128;
/// Widest head attention takes.
constexpr std::int64_t kMaxHeadWidth = 256;

/// A stretch of a product's inner dimension: of a packed strip and of a packed panel, over k (a
/// multiple of k_step).
struct GemmPart {
    const void *strip, *panel;
    std::int64_t k;
};

/// Matrix product over packed operands. A is cut into strips of `mr` rows, B into panels of `nr`
/// columns; both keep the inner dimension outermost, so that a part of it starting at k0 (a
/// multiple of k_step) begins at k0 * mr * a_bytes (k0 * nr * b_bytes). The inner dimension is
/// padded with zeros to a multiple of k_step. Every element of a tile is one chain of sums, k
/// ascending.
struct GemmKernel {
    int mr, nr, k_step;
    int a_bytes, b_bytes;  ///< per packed element
    bool panel_is_rows;    ///< a packed panel is plain fp32 [k][nr]
    /// Strip of `rows` <= mr rows: element (m, k) at a[m * stride + k], or a[k * stride + m].
    void (*pack_a)(In a, std::int64_t stride, std::int64_t rows, std::int64_t k, void* strip);
    void (*pack_a_transposed)(In a, std::int64_t stride, std::int64_t rows, std::int64_t k,
                              void* strip);
    /// Panel of `cols` <= nr columns: element (k, n) at b[k * stride + n], or b[n * stride + k].
    void (*pack_b)(In b, std::int64_t stride, std::int64_t k, std::int64_t cols, void* panel);
    void (*pack_b_transposed)(In b, std::int64_t stride, std::int64_t k, std::int64_t cols,
                              void* panel);
    /// c[mr][nr] = (first) or += strip * panel of each part, one after the other. Rows beyond
    /// `rows` are untouched or get + 0.
    void (*tile)(const GemmPart* parts, int count, int rows, float* c, bool first);
};

/// Shapes and operands of one attention call, forward or backward.
struct AttentionCall {
    std::int64_t heads, kv_heads, width;
    float scale, softcap;
    std::int64_t window;
    In q, k, v;
    Out out;     ///< forward: written; backward: read
    float* lse;  ///< [Nq, heads]; forward: may be null
    In dout;
    float *dq, *dk, *dv;
};

struct Kernels {
    const char* name;
    GemmKernel f32, bf16;
    bool bf16_attention;  ///< attention on bf16 tensors uses the bf16 products

    /// Values [first, first + count) of the weight in fp32, scale applied.
    void (*expand)(const WeightView& weight, std::int64_t first, std::int64_t count, float* out);
    /// c[rows, cols] (row stride `stride`) = or += a tile [.][nr] (+ bias).
    void (*store_tile)(const float* tile, std::int64_t nr, std::int64_t rows, std::int64_t cols,
                       const float* bias, Out c, std::int64_t stride, bool accumulate);

    std::size_t (*attention_scratch)(const GemmKernel& gemm, std::int64_t width);
    /// One key/value head of one sequence, queries [first, first + count).
    void (*attention)(const GemmKernel& gemm, const AttentionCall& call,
                      const AttentionSequence& sequence, std::int64_t kv_head, std::int64_t first,
                      std::int64_t count, std::byte* scratch);
    /// One key/value head of one sequence.
    void (*attention_backward)(const GemmKernel& gemm, const AttentionCall& call,
                               const AttentionSequence& sequence, std::int64_t kv_head,
                               std::byte* scratch);

    // Rows of `width` elements.
    void (*rms_norm)(In x, const float* gain, float eps, bool offset, Out y, std::int64_t rows,
                     std::int64_t width);
    void (*rms_norm_backward)(In x, const float* gain, float eps, bool offset, In dy, float* dx,
                              bool accumulate, std::int64_t rows, std::int64_t width);
    void (*layer_norm)(In x, const float* gain, const float* bias, float eps, Out y,
                       std::int64_t rows, std::int64_t width);
    void (*layer_norm_backward)(In x, const float* gain, float eps, In dy, float* dx,
                                bool accumulate, std::int64_t rows, std::int64_t width);
    void (*row_dots)(In a, In b, float* out, std::int64_t rows, std::int64_t width);
    /// sums[c] = sum over rows n ascending of a[n][c] * (b[n][c] - shift[c]); rows lie `stride`
    /// elements apart; shift may be null.
    void (*column_dots)(In a, In b, const float* shift, float* sums, std::int64_t rows,
                        std::int64_t width, std::int64_t stride);
    void (*rope)(Out x, const float* cos, const float* sin, bool inverse, std::int64_t heads,
                 std::int64_t width, std::int64_t half);
    /// One row of logits; dlogprob may be null. Returns the target's log-probability.
    float (*log_softmax)(float* logits, std::int64_t count, std::int32_t target, float logit_scale,
                         float softcap, const float* dlogprob);

    // Elements.
    void (*copy_scaled)(In x, float scale, Out y, std::int64_t count);
    void (*add)(In x, float scale, float* y, std::int64_t count);
    void (*activate)(Activation kind, In gate, In up, Out out, std::int64_t count);
    void (*activate_backward)(Activation kind, In gate, In up, In dout, Out dgate, Out dup,
                              std::int64_t count);
    /// Sums of squares of `chunks` chunks of 4096 elements (the last may be shorter).
    void (*sum_of_squares)(const float* x, std::int64_t count, double* sums);
    void (*adamw)(const AdamW& hyper, float* parameter, const float* gradient, float* exp_avg,
                  float* exp_avg_sq, std::int64_t count);
    void (*sgd)(const Sgd& hyper, float* parameter, const float* gradient, float* momentum,
                std::int64_t count);
    void (*rmsprop)(const RmsProp& hyper, float* parameter, const float* gradient,
                    float* square_avg, float* momentum, std::int64_t count);
    /// Register-only multiply-adds for `rounds` rounds; returns the FLOPs done.
    double (*spin_multiply_adds)(std::int64_t rounds);
};

const Kernels& sse_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_bf16_kernels();
const Kernels& amx_bf16_kernels();

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}
constexpr std::int64_t divide_up(std::int64_t value, std::int64_t divisor) {
    return (value + divisor - 1) / divisor;
}

}  // namespace qshard::cpu
