#pragma once

#include <algorithm>
#include <memory>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/sizes.h"
#include "backend/cpu/thread_pool.h"

namespace qshard::cpu {

/// Memory of 64-byte alignment, released on destruction.
struct AlignedDelete {
    void operator()(std::byte* pointer) const;
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;
AlignedBytes allocate_aligned(std::size_t bytes);

/// The backend of CPUs: one kernel set, a fixed number of threads. Work is cut into tiles of rows
/// and columns freely, because a kernel's chain of sums for an element never depends on the tile.
class CpuBackend final : public Backend {
  public:
    CpuBackend(const Kernels& kernels, int threads);

    std::string_view name() const override { return "cpu"; }
    std::string_view isa() const override { return kernels_.name; }
    int threads() const override { return pool_.threads(); }
    std::size_t workspace_bytes() const override;
    std::int64_t batch_rows() const override { return kBatchRows; }
    std::int64_t fixed_rows() const override { return kFixedRows; }

    void* allocate(std::size_t bytes) override;
    void release(void* pointer) override;
    void upload(void* device, const void* host, std::size_t bytes) override;
    void download(void* host, const void* device, std::size_t bytes) override;
    void fill_zero(Tensor out) override;
    void copy(Tensor in, Tensor out) override;
    void synchronize() override {}

    std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                             DType dtype) const override;
    Packed pack(const WeightView& weight, Orientation orientation, DType dtype,
                void* destination) override;
    void gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) override;
    void gemms(std::span<const GemmCall> calls) override;
    void gemm_rows(Tensor a, Tensor b, float scale, DType dtype, Tensor c, bool transposed,
                   bool accumulate) override;
    void row_norms(const WeightView& weight, Tensor a, Tensor b, float scale, Tensor magnitude,
                   Tensor out) override;
    void magnitude_backward(Tensor dy, Tensor y, Tensor bias, Tensor magnitude, Tensor factor,
                            Tensor db, Tensor dmagnitude) override;

    void embed(Tensor table, std::span<const std::int32_t> ids, float scale, Tensor x) override;
    void embed_backward(Tensor dx, std::span<const std::int32_t> ids, float scale,
                        Tensor dtable) override;
    void rms_norm(Tensor x, Tensor gain, float eps, bool offset, Tensor y) override;
    void rms_norm_backward(Tensor x, Tensor gain, float eps, bool offset, Tensor dy, Tensor dx,
                           bool accumulate) override;
    void layer_norm(Tensor x, Tensor gain, Tensor bias, float eps, Tensor y) override;
    void layer_norm_backward(Tensor x, Tensor gain, float eps, Tensor dy, Tensor dx,
                             bool accumulate) override;
    void rope(Tensor x, std::span<const std::int32_t> positions, Tensor cos, Tensor sin,
              bool inverse) override;
    void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                   Tensor lse) override;
    void attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                            Tensor lse, Tensor dout, Tensor dq, Tensor dk, Tensor dv) override;
    void dropout(const DropoutMask& mask, Tensor x, bool accumulate, Tensor y) override;
    void activate(Activation kind, Tensor gate, Tensor up, Tensor out) override;
    void activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout, Tensor dgate,
                           Tensor dup) override;
    void add(Tensor x, float scale, Tensor y) override;
    void add_rows(Tensor in, std::span<const std::int32_t> rows, std::span<const float> factors,
                  Tensor out) override;
    void scale_rows(Tensor x, std::span<const float> factors) override;
    void row_dots(Tensor a, Tensor b, Tensor out) override;
    void log_softmax(Tensor logits, std::span<const std::int32_t> targets, float logit_scale,
                     float softcap, Tensor dlogprob, Tensor logprob) override;
    void gather_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) override;
    void scatter_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) override;

    double sum_of_squares(Tensor x) override;
    void scale(Tensor x, float factor) override;
    void adamw(const AdamW& hyper, Tensor parameter, Tensor gradient, Tensor exp_avg,
               Tensor exp_avg_sq) override;
    void sgd(const Sgd& hyper, Tensor parameter, Tensor gradient, Tensor momentum) override;
    void rmsprop(const RmsProp& hyper, Tensor parameter, Tensor gradient, Tensor square_avg,
                 Tensor momentum) override;

    const Kernels& kernels() const { return kernels_; }
    ThreadPool& pool() { return pool_; }

  private:
    struct Blocks;
    class Operands;
    class Visit;
    /// Part [m0, m1) x [k0, k1) of gemm_rows' result.
    struct RowsBlock {
        Tensor a, b;
        float factor;
        DType dtype;
        Tensor c;
        bool transposed, accumulate;
        std::int64_t m0 = 0, m1 = 0, k0 = 0, k1 = 0;
    };

    const GemmKernel& gemm_kernel(DType dtype) const {
        return dtype == DType::kBF16 ? kernels_.bf16 : kernels_.f32;
    }
    const GemmKernel& attention_kernel(const Tensor& q) const;
    std::byte* scratch(int thread) const;
    void expand_row(const WeightView& weight, std::int64_t row, std::int64_t first,
                    std::int64_t count, float* out) const;
    void pack_panels(const WeightView& weight, Orientation orientation, DType dtype,
                     std::int64_t first, std::int64_t count, std::byte* destination,
                     float* lines) const;
    static bool resumes(const GemmCall& call);
    void gemm_in_ranges(const GemmCall& call, Operands& operands);
    void multiply_chunk(const GemmCall& call, Operands& operands, std::int64_t first_row,
                        std::int64_t rows);
    void pack_strips(const GemmCall& call, Operands& operands, std::int64_t first_row,
                     std::int64_t rows);
    void gemm_block(const GemmCall& call, const Operands& operands, const Blocks& blocks,
                    std::int64_t block, Tensor c, float* tiles) const;
    void gemm_rows_block(const RowsBlock& block, std::byte* scratch_bytes) const;
    /// Cuts [0, count) into ranges of about `grain` and runs body(begin, end) on them.
    template <class F>
    void for_ranges(std::int64_t count, std::int64_t grain, const F& body) {
        const std::int64_t tasks = divide_up(count, grain);
        pool_.run(tasks, [&](std::int64_t task, int) {
            const std::int64_t begin = task * grain;
            body(begin, std::min(count, begin + grain));
        });
    }
    const Kernels& kernels_;
    ThreadPool pool_;
    std::size_t scratch_bytes_;  ///< per thread
    AlignedBytes workspace_;     ///< packed activations, then the threads' scratch
};

In in_of(const Tensor& x);

}  // namespace qshard::cpu
