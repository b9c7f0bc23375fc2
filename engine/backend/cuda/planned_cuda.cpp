#include <limits>

#include "backend/cuda/cuda.h"
#include "backend/cuda/sizes.h"

/// The CUDA backend's sizes without a GPU, for plans: `qshard plan` runs on login nodes, which have
/// none.
namespace qshard {
namespace {

[[noreturn]] void cannot() {
    throw BugError("a backend that only plans was asked to compute");
}

class PlannedCuda final : public Backend {
  public:
    std::string_view name() const override { return "cuda"; }
    std::string_view isa() const override { return "(no GPU here)"; }
    int threads() const override { return 1; }
    std::size_t workspace_bytes() const override { return cuda::kOwnBytes; }
    /// Unknown, but not the host's.
    std::size_t memory_bytes() const override { return std::numeric_limits<std::size_t>::max(); }
    std::size_t logits_bytes() const override { return cuda::kLogitsBytes; }
    std::int64_t tile_rows() const override { return cuda::kTileRows; }
    std::int64_t batch_rows() const override { return cuda::kBatchRows; }
    std::int64_t fixed_rows() const override { return cuda::kFixedRows; }
    bool host_accessible() const override { return false; }
    std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                             DType dtype) const override {
        return cuda::packed_bytes(rows, cols, orientation, dtype);
    }
    bool serves_both(std::int64_t cols, DType dtype) const override {
        return cuda::serves_both(cols, dtype);
    }

    void* allocate(std::size_t) override { cannot(); }
    void release(void*) override { cannot(); }
    void upload(void*, const void*, std::size_t) override { cannot(); }
    void download(void*, const void*, std::size_t) override { cannot(); }
    void fill_zero(Tensor) override { cannot(); }
    void copy(Tensor, Tensor) override { cannot(); }
    void synchronize() override { cannot(); }
    Packed pack(const WeightView&, Orientation, DType, void*) override { cannot(); }
    void gemm(std::span<const GemmTerm>, Tensor, Tensor, bool) override { cannot(); }
    void gemm_rows(Tensor, Tensor, float, DType, Tensor, bool, bool) override { cannot(); }
    void row_norms(const WeightView&, Tensor, Tensor, float, Tensor, Tensor) override { cannot(); }
    void magnitude_backward(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {
        cannot();
    }
    void embed(Tensor, std::span<const std::int32_t>, float, Tensor) override { cannot(); }
    void embed_backward(Tensor, std::span<const std::int32_t>, float, Tensor) override { cannot(); }
    void rms_norm(Tensor, Tensor, float, bool, Tensor) override { cannot(); }
    void rms_norm_backward(Tensor, Tensor, float, bool, Tensor, Tensor, bool) override { cannot(); }
    void layer_norm(Tensor, Tensor, Tensor, float, Tensor) override { cannot(); }
    void layer_norm_backward(Tensor, Tensor, float, Tensor, Tensor, bool) override { cannot(); }
    void rope(Tensor, std::span<const std::int32_t>, Tensor, Tensor, bool) override { cannot(); }
    void attention(const AttentionShape&, Tensor, Tensor, Tensor, Tensor, Tensor) override {
        cannot();
    }
    void attention_backward(const AttentionShape&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                            Tensor, Tensor, Tensor) override {
        cannot();
    }
    void activate(Activation, Tensor, Tensor, Tensor) override { cannot(); }
    void activate_backward(Activation, Tensor, Tensor, Tensor, Tensor, Tensor) override {
        cannot();
    }
    void add(Tensor, float, Tensor) override { cannot(); }
    void add_rows(Tensor, std::span<const std::int32_t>, std::span<const float>, Tensor) override {
        cannot();
    }
    void scale_rows(Tensor, std::span<const float>) override { cannot(); }
    void row_dots(Tensor, Tensor, Tensor) override { cannot(); }
    void log_softmax(Tensor, std::span<const std::int32_t>, float, float, Tensor, Tensor) override {
        cannot();
    }
    void gather_rows(Tensor, std::span<const std::int32_t>, Tensor) override { cannot(); }
    void scatter_rows(Tensor, std::span<const std::int32_t>, Tensor) override { cannot(); }
    double sum_of_squares(Tensor) override { cannot(); }
    void scale(Tensor, float) override { cannot(); }
    void adamw(const AdamW&, Tensor, Tensor, Tensor, Tensor) override { cannot(); }
    void sgd(const Sgd&, Tensor, Tensor, Tensor) override { cannot(); }
    void rmsprop(const RmsProp&, Tensor, Tensor, Tensor, Tensor) override { cannot(); }
};

}  // namespace

std::unique_ptr<Backend> make_planned_cuda_backend() {
    return std::make_unique<PlannedCuda>();
}

}  // namespace qshard
