#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "backend/section_clock.h"
#include "base/dropout.h"
#include "spec/layout.h"
#include "spec/model_config.h"
#include "tensor/tensor.h"

/// The only door to arithmetic: memory, order and operations on one device. Knows nothing of
/// models, ranks or files.
///
/// Rules for every implementation
/// - An output element is computed by the same sequence of operations whatever the number of
/// threads, the number of
///   rows in the call and the alignment of its operands: results are the same bits however the work
///   is cut.
/// - Arithmetic is fp32 (sums over a whole vector: double); bf16 is a storage format that is
/// rounded to once, on write.
/// - Tensors are contiguous; "any" dtype means kF32 or kBF16. Operations throw BugError on shapes
/// that do not fit.
/// - Nothing is allocated by an operation: memory is the caller's, or workspace taken when the
/// backend was made.
/// - Operations on one Backend are issued by one thread and complete in the order of issue;
/// synchronize() waits for all.
namespace qshard {

/// A weight as it is stored: a view into a unit's bytes.
struct WeightView {
    Storage storage = Storage::kPlain;
    std::int64_t rows = 0, cols = 0;
    Tensor plain;        ///< kPlain: [rows, cols] any dtype
    float scale = 1.0f;  ///< kPlain: factor applied (fp32) before rounding; LoRA's alpha / r
    const std::uint8_t* codes = nullptr;  ///< otherwise: StoredPart::kData; int8 codes are signed
    std::int64_t first = 0;  ///< otherwise: element [0, 0] is this one of codes and of its blocks
    bool double_quant = false;
    const std::uint8_t* absmax_codes = nullptr;  ///< double_quant: [blocks]
    const float* absmax2 = nullptr;              ///< double_quant: [ceil(blocks / 256)]
    const float* absmax_offset = nullptr;        ///< double_quant: [1]
    const float* absmax = nullptr;               ///< otherwise: [blocks], int8: [rows]
    const float* row_factors = nullptr;  ///< [rows] applied to rows (fp32) before rounding; or null
};

/// View of `field` inside the unit's bytes at `unit`.
WeightView view_of(const Field& field, const std::byte* unit);
/// Rows [first, first + count) of a weight: one part of a fused projection.
WeightView rows_of(const WeightView& weight, std::int64_t first, std::int64_t count);

/// Which product a packed weight W[rows = out, cols = in] serves.
enum class Orientation : std::uint8_t {
    kForward,   ///< y[M, out] = x[M, in] W^T      (inner dimension: in)
    kBackward,  ///< dx[M, in] = dy[M, out] W      (inner dimension: out)
};

/// A weight expanded into the order and precision that gemm reads; made by pack(), owned by the
/// caller's memory.
struct Packed {
    const void* data = nullptr;
    std::int64_t inner = 0, outer = 0;  ///< gemm computes [M, outer] from [M, inner]
    DType dtype =
        DType::kBF16;  ///< kBF16: operands are rounded to bf16 and multiplied exactly; kF32: fp32
    bool transposed = false;  ///< only where Backend::serves_both(): lies as [outer, inner]
};
struct PackedPair {
    Packed forward, backward;  ///< no data where only forward was asked for
};

/// One product of a sum: a[M, inner] times b.
struct GemmTerm {
    Tensor a;  ///< any dtype; rounded to b.dtype on the way in
    Packed b;
};

/// What gemm() is called with, as one of several products.
struct GemmCall {
    std::span<const GemmTerm> terms;
    Tensor bias, c;
    bool accumulate = false;
};

/// Documents (training) or sequences with a cache (generation) of one attention call. Query row
/// q_begin + i of a sequence sees its keys k_begin .. k_begin + (k_count - q_count) + i, at most
/// `window` of them counting itself.
struct AttentionSequence {
    std::int64_t q_begin = 0, q_count = 0;
    std::int64_t k_begin = 0, k_count = 0;
};

struct AttentionShape {
    std::int64_t heads = 0, kv_heads = 0, head_width = 0;
    float scale = 1.0f;
    float softcap = 0.0f;     ///< 0 = none; else softcap * tanh(scale * q.k / softcap)
    std::int64_t window = 0;  ///< 0 = none
    std::span<const AttentionSequence> sequences;
};

/// Hyperparameters of one AdamW update (torch.optim.AdamW's form; t = step_number counts from 1).
struct AdamW {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    std::int64_t step_number;
};
struct Sgd {
    float learning_rate, momentum, weight_decay;
    std::int64_t step_number;  ///< 1: the momentum buffer is set to the gradient, as torch does
};
struct RmsProp {
    float learning_rate, alpha, epsilon, weight_decay, momentum;
};

class Backend {
  public:
    virtual ~Backend() = default;

    /// "reference", "cpu", "cuda".
    virtual std::string_view name() const = 0;
    /// The kernel set in use ("avx2", "amx_bf16", "sm_90", ...): bits may differ between kernel
    /// sets, never within one.
    virtual std::string_view isa() const = 0;
    virtual int threads() const = 0;
    /// Memory of the backend's own (packing buffers, per-thread scratch), fixed at construction.
    virtual std::size_t workspace_bytes() const = 0;
    /// Bytes that allocate() may be asked for in all, workspace included; 0: ask the host.
    virtual std::size_t memory_bytes() const { return 0; }
    /// Bytes of the device's memory that are gone since the backend was opened, workspace included;
    /// 0: ask the host.
    virtual std::size_t taken_bytes() const { return 0; }

    /// Bytes of fp32 logits that a head makes at a time. More are fewer and larger products: what
    /// reads a weight from slow memory for each wants them large.
    virtual std::size_t logits_bytes() const { return std::size_t{32} << 20; }
    /// Rows of products that are computed together: heads take multiples of them.
    virtual std::int64_t tile_rows() const { return 6; }
    /// Rows that a call should have: short slots are computed together up to as many. 0: each for
    /// itself.
    virtual std::int64_t batch_rows() const { return 0; }
    /// Rows that a layer's products do in the time of what a batch costs whatever its rows:
    /// expanding the weights once, starting kernels.
    virtual std::int64_t fixed_rows() const { return 0; }

    // Memory. Pointers are 64-byte aligned. upload and download are ordered with the operations
    // issued before and after; the host's side is free again when the call returns.
    /// Whether allocate() gives ordinary memory of the host. Elsewhere only operations, upload and
    /// download may touch it.
    virtual bool host_accessible() const { return true; }
    virtual void* allocate(
        std::size_t bytes) = 0;  ///< SystemError(kUnavailable) if there is not enough
    virtual void release(void* pointer) = 0;
    virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
    virtual void download(void* host, const void* device, std::size_t bytes) = 0;

    // Uploads beside the operations, for weights that come and go. They are done in the order of
    // their start; at most two are started and not finished.
    /// Lets uploads read this memory of the host while its thread goes on, until unpin(). False if
    /// the host locks no more memory: uploads from it then make their caller wait.
    virtual bool pin(void* /*host*/, std::size_t /*bytes*/) { return true; }
    virtual void unpin(void* /*host*/) {}
    /// Waits for the operations issued before, which may still read `device`, but lets those issued
    /// after go on. `host` stays as it is until operations after finish_upload() are done.
    virtual void start_upload(void* device, const void* host, std::size_t bytes) {
        upload(device, host, bytes);
    }
    /// Operations issued from now on read what the oldest upload not finished yet has copied.
    virtual void finish_upload() {}

    virtual void fill_zero(Tensor out) = 0;
    virtual void copy(Tensor in, Tensor out) = 0;  ///< any dtypes; rounds to out's
    virtual void synchronize() = 0;
    /// Waits for the operations issued so far when it is called, once, by any thread; empty where
    /// operations are done when their call returns.
    virtual std::function<void()> pending() { return {}; }
    /// Times operations of this backend, which it must not outlive, by `sections` sections.
    virtual std::unique_ptr<SectionClock> make_section_clock(int sections) {
        return std::make_unique<HostSectionClock>(sections);
    }

    // Frozen and small matrices.
    virtual std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                                     DType dtype) const = 0;
    /// Expands (dequantizes: 4-bit: table value times absmax; int8: code times absmax times
    /// kInt8Step; in fp32, then rounded once to `dtype`) into destination.
    virtual Packed pack(const WeightView& weight, Orientation orientation, DType dtype,
                        void* destination) = 0;
    /// Whether gemm takes a backward weight of so many columns, if it is the only term, as the
    /// transpose of a forward one.
    virtual bool serves_both(std::int64_t /*cols*/, DType /*dtype*/) const { return false; }
    /// A weight that is the only term of its products: with `backward` both orientations, in one
    /// expansion where that serves both. Forward is the same with and without.
    std::size_t packed_alone_bytes(std::int64_t rows, std::int64_t cols, DType dtype,
                                   bool backward) const;
    PackedPair pack_alone(const WeightView& weight, DType dtype, bool backward, void* destination);
    /// c[M, N] = (or += if accumulate) sum over terms of a*b (+ bias[N] fp32, may be empty). c: any
    /// dtype (accumulate: kF32). The inner sums run over the terms in order, each inner dimension
    /// ascending, in fp32. c must not alias an a.
    virtual void gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) = 0;
    /// gemm() of each call, in order, so that what several of them read is prepared once. All have
    /// the same rows and one dtype of b. A call may read rows that an earlier one has written; none
    /// writes what an earlier one has read.
    virtual void gemms(std::span<const GemmCall> calls) {
        for (const GemmCall& call : calls) gemm(call.terms, call.bias, call.c, call.accumulate);
    }
    /// c[M, K] = (or += if accumulate) scale * a^T b, the sum over rows n ascending in fp32;
    /// a[N, M], b[N, K] any dtype (bf16 products if dtype is kBF16: both are rounded to it), c
    /// fp32. With `transposed`, c is [K, M]. Gradients of weights.
    virtual void gemm_rows(Tensor a, Tensor b, float scale, DType dtype, Tensor c, bool transposed,
                           bool accumulate) = 0;
    /// gemm_rows() of each slot: the s-th has rows begin[s] .. begin[s + 1] of a and b, which lie
    /// on end, and its result is s * stride elements behind `c`, that of the first; it is
    /// overwritten, with zeros where a slot has no rows.
    virtual void gemm_rows_of_slots(Tensor a, Tensor b, std::span<const std::int64_t> begin,
                                    float scale, DType dtype, Tensor c, std::int64_t stride,
                                    bool transposed);

    // DoRA (Liu et al. 2024): row o of W + scale B A is scaled to the length magnitude[o]. The
    // factor, magnitude[o] over the row's norm, goes into packed weights
    // (WeightView::row_factors).
    /// out[o] = ||W[o] + scale * (B A)[o]||, the sum of squares in double, whatever row_factors
    /// say; or magnitude[o] / that (0 where the norm is), if magnitude is not empty. a[r, in],
    /// b[out, r], magnitude[out], out[out] fp32. in <= 262144, r <= 1024.
    virtual void row_norms(const WeightView& weight, Tensor a, Tensor b, float scale,
                           Tensor magnitude, Tensor out) = 0;
    /// From dy and y = x (factor (W + scale B A))^T + bias: dmagnitude[o] = sum over n, in a
    /// fixed order, of dy[n, o] * (y[n, o] - bias[o]) / magnitude[o] (0 where that is 0), the norms
    /// taken as constants; and db[o] *= factor[o], which makes the derivative by B of that by
    /// factor B. dy, y[N, out] any dtypes, bias (may be empty), magnitude, factor, dmagnitude
    /// [out], db[out, r] fp32.
    virtual void magnitude_backward(Tensor dy, Tensor y, Tensor bias, Tensor magnitude,
                                    Tensor factor, Tensor db, Tensor dmagnitude) = 0;

    // Decoder.
    /// x[n] = scale * table[ids[n]]; table[V, C] any dtype, ids[N] on the host, x fp32.
    virtual void embed(Tensor table, std::span<const std::int32_t> ids, float scale, Tensor x) = 0;
    /// dtable[ids[n]] += scale * dx[n], n ascending; ids[N] on the host, negative ones are passed
    /// over; dx[N, C], dtable[V, C] fp32.
    virtual void embed_backward(Tensor dx, std::span<const std::int32_t> ids, float scale,
                                Tensor dtable) = 0;
    /// y[n] = x[n] * rsqrt(mean(x[n]^2) + eps) * (offset ? 1 + gain : gain); x, y any dtype, gain
    /// fp32[C]. y may alias x.
    virtual void rms_norm(Tensor x, Tensor gain, float eps, bool offset, Tensor y) = 0;
    /// dx[N,C] += (or = if !accumulate) inv * (dy*g - x * mean_c(dy*g*x) * inv^2), inv recomputed
    /// from x. x, dy any dtype, dx fp32; dx may alias dy when it is fp32 and !accumulate. (Zhang &
    /// Sennrich 2019)
    virtual void rms_norm_backward(Tensor x, Tensor gain, float eps, bool offset, Tensor dy,
                                   Tensor dx, bool accumulate) = 0;
    /// y[n] = (x[n] - mean(x[n])) * rsqrt(var(x[n]) + eps) * gain + bias; x, y any dtype, gain and
    /// bias fp32[C], var without Bessel's correction. y may alias x.
    virtual void layer_norm(Tensor x, Tensor gain, Tensor bias, float eps, Tensor y) = 0;
    /// dx[N,C] += (or = if !accumulate) inv * (g - mean_c(g) - z * mean_c(g*z)) with g = dy*gain,
    /// z = (x - mean) * inv, both statistics recomputed from x. Dtypes and aliasing as
    /// rms_norm_backward. (Ba et al. 2016)
    virtual void layer_norm_backward(Tensor x, Tensor gain, float eps, Tensor dy, Tensor dx,
                                     bool accumulate) = 0;
    /// Rotates pairs (j, j + R/2) of the first R = 2 * cos.cols() dimensions of every head, in
    /// place, by the angle of position[n]: x[N, heads, D] any dtype; cos, sin fp32 [P, R/2];
    /// inverse rotates back (the backward).
    virtual void rope(Tensor x, std::span<const std::int32_t> positions, Tensor cos, Tensor sin,
                      bool inverse) = 0;
    /// out[Nq, H*D] = softmax(mask(scale q k^T)) v per head, grouped keys (head h uses h / (H/K));
    /// lse[Nq, H] fp32 = log-sum-exp of the scores (may be empty). q[Nq,H*D], k and v[Nk,K*D], out:
    /// one dtype.
    virtual void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                           Tensor lse) = 0;
    /// dq, dk, dv fp32, overwritten for the rows of the sequences. q_count == k_count for every
    /// sequence.
    virtual void attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                                    Tensor out, Tensor lse, Tensor dout, Tensor dq, Tensor dk,
                                    Tensor dv) = 0;
    /// out = act(gate) * up, all [N, F] of one dtype; with an empty gate out = act(up). out may
    /// alias an input.
    virtual void activate(Activation kind, Tensor gate, Tensor up, Tensor out) = 0;
    /// dgate, dup from dout (any dtypes); dgate may alias gate, dup may alias up. Empty gate: only
    /// dup.
    virtual void activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout,
                                   Tensor dgate, Tensor dup) = 0;
    /// y = (or += if accumulate) x where the mask keeps, scaled by mask.scale(), else 0; any
    /// dtypes, accumulate: y fp32. y may alias x. The default masks on the host.
    virtual void dropout(const DropoutMask& mask, Tensor x, bool accumulate, Tensor y);
    /// y += scale * x, elementwise; y fp32, x any dtype.
    virtual void add(Tensor x, float scale, Tensor y) = 0;

    // Mixture of experts; rows and factors on the host.
    /// out[rows[i]] += factors[i] * in[i]; in any dtype, out fp32. The rows are distinct.
    virtual void add_rows(Tensor in, std::span<const std::int32_t> rows,
                          std::span<const float> factors, Tensor out) = 0;
    /// x[i] *= factors[i], row by row; any dtype.
    virtual void scale_rows(Tensor x, std::span<const float> factors) = 0;
    /// out[i] = sum over c of a[i, c] * b[i, c], in double; a, b any dtypes, out fp32[N].
    virtual void row_dots(Tensor a, Tensor b, Tensor out) = 0;

    // Head.
    /// From logits[M, V] fp32 (in place): z = logit_scale * logits, soft-capped if softcap > 0;
    /// logprob[m] = z[target] - logsumexp(z) (fp32[M]). With dlogprob fp32[M]: logits becomes
    /// d(loss)/d(logits) = dlogprob[m] * d logprob[m] / d logits; without it (empty) logits holds
    /// z. targets[M] on the host, all >= 0.
    virtual void log_softmax(Tensor logits, std::span<const std::int32_t> targets,
                             float logit_scale, float softcap, Tensor dlogprob, Tensor logprob) = 0;
    /// out[i] = in[rows[i]] for the rows listed (host), any dtypes.
    virtual void gather_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) = 0;
    /// out[rows[i]] = in[i]; rows not listed become zero. out fp32.
    virtual void scatter_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) = 0;

    // The flat trainable vector; all fp32.
    /// Deterministic sum of squares: fixed chunks of 4096 elements, each summed in order in double,
    /// then the chunks in order.
    virtual double sum_of_squares(Tensor x) = 0;
    virtual void scale(Tensor x, float factor) = 0;
    virtual void adamw(const AdamW& hyper, Tensor parameter, Tensor gradient, Tensor exp_avg,
                       Tensor exp_avg_sq) = 0;
    virtual void sgd(const Sgd& hyper, Tensor parameter, Tensor gradient, Tensor momentum) = 0;
    virtual void rmsprop(const RmsProp& hyper, Tensor parameter, Tensor gradient, Tensor square_avg,
                         Tensor momentum) = 0;
};

/// Backend::dropout() of elements [first, first + count) in host memory.
void drop_range(const DropoutMask& mask, const Tensor& x, bool accumulate, const Tensor& y,
                std::int64_t first, std::int64_t count);
/// BugError if dropout() cannot take these.
void check_dropout(const Tensor& x, bool accumulate, const Tensor& y);

/// Plain fp32 loops, one thread: the oracle of the others.
std::unique_ptr<Backend> make_reference_backend();

struct CpuOptions {
    int threads = 1;
    std::string isa =
        "auto";  ///< auto | amx_bf16 | avx512_bf16 | avx512 | avx2 | sse (the portable kernels)
};
/// UserError(kUnavailable) if this processor lacks the instruction set asked for.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);
/// Instruction sets this processor offers, best first ("auto" takes the first).
std::span<const std::string_view> cpu_isas();

}  // namespace qshard
