#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend/cuda/cuda.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/matmul.h"
#include "backend/cuda/sizes.h"
#include "backend/cuda/staging.h"
#include "backend/cuda/uploads.h"

namespace qshard::cuda {

/// The backend of one NVIDIA GPU: everything but uploads that run beside goes over one stream,
/// memory of its own is taken when it is made. Large products are cuBLASLt's (matmul.h), everything
/// else are kernels of our own (kernels.h). A packed weight is row-major [inner, outer]; terms of a
/// gemm whose weights lie one after the other in memory are one product over the sum of their inner
/// dimensions.
class CudaBackend final : public Backend {
  public:
    explicit CudaBackend(const CudaOptions& options);
    ~CudaBackend() override;

    std::string_view name() const override { return "cuda"; }
    std::string_view isa() const override { return isa_; }
    int threads() const override { return options_.host_threads; }
    std::size_t workspace_bytes() const override;
    std::size_t memory_bytes() const override { return memory_bytes_; }
    std::size_t taken_bytes() const override;
    std::size_t logits_bytes() const override { return kLogitsBytes; }
    std::int64_t tile_rows() const override { return kTileRows; }
    std::int64_t batch_rows() const override { return kBatchRows; }
    std::int64_t fixed_rows() const override { return kFixedRows; }
    bool host_accessible() const override { return false; }

    void* allocate(std::size_t bytes) override;
    void release(void* pointer) override;
    void upload(void* device, const void* host, std::size_t bytes) override;
    void download(void* host, const void* device, std::size_t bytes) override;
    bool pin(void* host, std::size_t bytes) override;
    void unpin(void* host) override;
    void start_upload(void* device, const void* host, std::size_t bytes) override;
    void finish_upload() override;
    void fill_zero(Tensor out) override;
    void copy(Tensor in, Tensor out) override;
    void synchronize() override;
    std::function<void()> pending() override;
    std::unique_ptr<SectionClock> make_section_clock(int sections) override;

    std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                             DType dtype) const override;
    Packed pack(const WeightView& weight, Orientation orientation, DType dtype,
                void* destination) override;
    bool serves_both(std::int64_t cols, DType dtype) const override {
        return cuda::serves_both(cols, dtype);
    }
    void gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) override;
    void gemms(std::span<const GemmCall> calls) override;
    void gemm_rows(Tensor a, Tensor b, float scale, DType dtype, Tensor c, bool transposed,
                   bool accumulate) override;
    void gemm_rows_of_slots(Tensor a, Tensor b, std::span<const std::int64_t> begin, float scale,
                            DType dtype, Tensor c, std::int64_t stride, bool transposed) override;
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
    void activate(Activation kind, Tensor gate, Tensor up, Tensor out) override;
    void activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout, Tensor dgate,
                           Tensor dup) override;
    void dropout(const DropoutMask& mask, Tensor x, bool accumulate, Tensor y) override;
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

  private:
    struct Run;
    /// What the first columns of operand_ are a copy of, within a call of gemms().
    struct Laid {
        const void* first = nullptr;
        std::int64_t rows = 0, cols = 0, stride = 0;
        DType dtype = DType::kBF16;
        bool operator==(const Laid&) const = default;
    };
    /// What gemm_rows() and gemm_rows_of_slots() are called with.
    struct RowsProducts {
        Tensor a, b;
        std::span<const std::int64_t> begin;
        float factor;
        DType dtype;
        Tensor c;
        std::int64_t stride;
        bool transposed, accumulate;
    };
    void rows_products(const RowsProducts& products);
    void open_device();
    StoredWeight stored(const WeightView& weight) const;
    static MatmulShape shape_of(const Run& run, std::int64_t outer, bool rounds, bool accumulate);
    bool gemm_by_library(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate);
    void product(const Run& run, std::int64_t row, Tensor c, bool accumulate);
    void lay_out(const Run& run, std::int64_t row, std::int64_t rows);
    void plain_gemm_of(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate);

    const CudaOptions options_;
    std::string isa_;
    int device_ = 0;
    bool tensor_cores_ = false;  ///< for bf16: compute capability 8 or newer
    std::size_t memory_bytes_ = 0;
    std::size_t free_at_start_ = 0;  ///< of the device, before anything was taken
    Stream stream_ = nullptr;
    std::byte* workspace_ = nullptr;  ///< the regions of sizes.h, one after the other
    float* dynamic_map_ = nullptr;    ///< kDynamicMap
    std::byte* library_ = nullptr;    ///< cuBLASLt's
    std::byte* operand_ = nullptr;    ///< operands of gemm laid out side by side, partial sums
    std::byte* results_ = nullptr;    ///< fp32 results before a bias, deltas of attention
    Laid laid_;
    std::unique_ptr<Staging> staging_;
    std::unique_ptr<Uploads> uploads_;
    std::unique_ptr<Matmul> matmul_;
};

}  // namespace qshard::cuda
