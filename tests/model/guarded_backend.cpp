#include "guarded_backend.h"

#include <sys/mman.h>

#include <deque>
#include <map>
#include <type_traits>

namespace qshard::test {
namespace {

class GuardedBackend final : public Backend {
  public:
    GuardedBackend(std::unique_ptr<Backend> inner, std::int64_t batch_rows)
        : inner_(std::move(inner)), batch_rows_(batch_rows) {}
    ~GuardedBackend() override {
        for (const auto& [pointer, bytes] : regions_) munmap(pointer, bytes);
    }

    std::string_view name() const override { return inner_->name(); }
    std::string_view isa() const override { return inner_->isa(); }
    int threads() const override { return inner_->threads(); }
    std::size_t workspace_bytes() const override { return inner_->workspace_bytes(); }
    std::size_t logits_bytes() const override { return inner_->logits_bytes(); }
    std::int64_t tile_rows() const override { return inner_->tile_rows(); }
    std::int64_t batch_rows() const override { return batch_rows_; }
    std::int64_t fixed_rows() const override { return inner_->fixed_rows(); }
    bool host_accessible() const override { return false; }

    void* allocate(std::size_t bytes) override {
        bytes = std::max<std::size_t>(bytes, 1);
        void* pointer =
            mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        check(pointer != MAP_FAILED, "memory can be mapped");
        regions_[pointer] = bytes;
        return pointer;
    }
    void release(void* pointer) override {
        munmap(pointer, regions_.at(pointer));
        regions_.erase(pointer);
    }
    void upload(void* device, const void* host, std::size_t bytes) override {
        open([&] { inner_->upload(device, host, bytes); });
    }
    void download(void* host, const void* device, std::size_t bytes) override {
        open([&] { inner_->download(host, device, bytes); });
    }
    /// As late as it may be, so that nobody reads before it is waited for.
    void start_upload(void* device, const void* host, std::size_t bytes) override {
        check(uploads_.size() < 2, "at most two uploads are on their way");
        uploads_.push_back({device, host, bytes});
    }
    void finish_upload() override {
        const auto [device, host, bytes] = uploads_.at(0);
        uploads_.pop_front();
        upload(device, host, bytes);
    }
    void fill_zero(Tensor out) override {
        open([&] { inner_->fill_zero(out); });
    }
    void copy(Tensor in, Tensor out) override {
        open([&] { inner_->copy(in, out); });
    }
    void synchronize() override { inner_->synchronize(); }

    std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                             DType dtype) const override {
        return inner_->packed_bytes(rows, cols, orientation, dtype);
    }
    Packed pack(const WeightView& weight, Orientation orientation, DType dtype,
                void* destination) override {
        return open([&] { return inner_->pack(weight, orientation, dtype, destination); });
    }
    bool serves_both(std::int64_t cols, DType dtype) const override {
        return inner_->serves_both(cols, dtype);
    }
    void gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) override {
        open([&] { inner_->gemm(terms, bias, c, accumulate); });
    }
    void gemms(std::span<const GemmCall> calls) override {
        open([&] { inner_->gemms(calls); });
    }
    void gemm_rows(Tensor a, Tensor b, float factor, DType dtype, Tensor c, bool transposed,
                   bool accumulate) override {
        open([&] { inner_->gemm_rows(a, b, factor, dtype, c, transposed, accumulate); });
    }
    void row_norms(const WeightView& weight, Tensor a, Tensor b, float factor, Tensor magnitude,
                   Tensor out) override {
        open([&] { inner_->row_norms(weight, a, b, factor, magnitude, out); });
    }
    void magnitude_backward(Tensor dy, Tensor y, Tensor bias, Tensor magnitude, Tensor factor,
                            Tensor db, Tensor dmagnitude) override {
        open([&] { inner_->magnitude_backward(dy, y, bias, magnitude, factor, db, dmagnitude); });
    }
    void embed(Tensor table, std::span<const std::int32_t> ids, float factor, Tensor x) override {
        open([&] { inner_->embed(table, ids, factor, x); });
    }
    void embed_backward(Tensor dx, std::span<const std::int32_t> ids, float factor,
                        Tensor dtable) override {
        open([&] { inner_->embed_backward(dx, ids, factor, dtable); });
    }
    void rms_norm(Tensor x, Tensor gain, float eps, bool offset, Tensor y) override {
        open([&] { inner_->rms_norm(x, gain, eps, offset, y); });
    }
    void rms_norm_backward(Tensor x, Tensor gain, float eps, bool offset, Tensor dy, Tensor dx,
                           bool accumulate) override {
        open([&] { inner_->rms_norm_backward(x, gain, eps, offset, dy, dx, accumulate); });
    }
    void layer_norm(Tensor x, Tensor gain, Tensor bias, float eps, Tensor y) override {
        open([&] { inner_->layer_norm(x, gain, bias, eps, y); });
    }
    void layer_norm_backward(Tensor x, Tensor gain, float eps, Tensor dy, Tensor dx,
                             bool accumulate) override {
        open([&] { inner_->layer_norm_backward(x, gain, eps, dy, dx, accumulate); });
    }
    void rope(Tensor x, std::span<const std::int32_t> positions, Tensor cos, Tensor sin,
              bool inverse) override {
        open([&] { inner_->rope(x, positions, cos, sin, inverse); });
    }
    void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                   Tensor lse) override {
        open([&] { inner_->attention(shape, q, k, v, out, lse); });
    }
    void attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                            Tensor lse, Tensor dout, Tensor dq, Tensor dk, Tensor dv) override {
        open([&] { inner_->attention_backward(shape, q, k, v, out, lse, dout, dq, dk, dv); });
    }
    void activate(Activation kind, Tensor gate, Tensor up, Tensor out) override {
        open([&] { inner_->activate(kind, gate, up, out); });
    }
    void activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout, Tensor dgate,
                           Tensor dup) override {
        open([&] { inner_->activate_backward(kind, gate, up, dout, dgate, dup); });
    }
    void add(Tensor x, float factor, Tensor y) override {
        open([&] { inner_->add(x, factor, y); });
    }
    void add_rows(Tensor in, std::span<const std::int32_t> rows, std::span<const float> factors,
                  Tensor out) override {
        open([&] { inner_->add_rows(in, rows, factors, out); });
    }
    void scale_rows(Tensor x, std::span<const float> factors) override {
        open([&] { inner_->scale_rows(x, factors); });
    }
    void row_dots(Tensor a, Tensor b, Tensor out) override {
        open([&] { inner_->row_dots(a, b, out); });
    }
    void log_softmax(Tensor logits, std::span<const std::int32_t> targets, float logit_scale,
                     float softcap, Tensor dlogprob, Tensor logprob) override {
        open(
            [&] { inner_->log_softmax(logits, targets, logit_scale, softcap, dlogprob, logprob); });
    }
    void gather_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) override {
        open([&] { inner_->gather_rows(in, rows, out); });
    }
    void scatter_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) override {
        open([&] { inner_->scatter_rows(in, rows, out); });
    }
    double sum_of_squares(Tensor x) override {
        return open([&] { return inner_->sum_of_squares(x); });
    }
    void scale(Tensor x, float factor) override {
        open([&] { inner_->scale(x, factor); });
    }
    void adamw(const AdamW& hyper, Tensor parameter, Tensor gradient, Tensor exp_avg,
               Tensor exp_avg_sq) override {
        open([&] { inner_->adamw(hyper, parameter, gradient, exp_avg, exp_avg_sq); });
    }
    void sgd(const Sgd& hyper, Tensor parameter, Tensor gradient, Tensor momentum) override {
        open([&] { inner_->sgd(hyper, parameter, gradient, momentum); });
    }
    void rmsprop(const RmsProp& hyper, Tensor parameter, Tensor gradient, Tensor square_avg,
                 Tensor momentum) override {
        open([&] { inner_->rmsprop(hyper, parameter, gradient, square_avg, momentum); });
    }

  private:
    void protect(int access) {
        for (const auto& [pointer, bytes] : regions_)
            check(mprotect(pointer, bytes, access) == 0, "memory can be opened and closed");
    }
    template <class F>
    std::invoke_result_t<F> open(const F& operation) {
        struct Closer {
            GuardedBackend& backend;
            ~Closer() { backend.protect(PROT_NONE); }
        };
        protect(PROT_READ | PROT_WRITE);
        const Closer closer{*this};
        return operation();
    }

    struct Upload {
        void* device;
        const void* host;
        std::size_t bytes;
    };
    std::unique_ptr<Backend> inner_;
    const std::int64_t batch_rows_;
    std::deque<Upload> uploads_;
    std::map<void*, std::size_t> regions_;
};

}  // namespace

std::unique_ptr<Backend> make_guarded_backend(std::unique_ptr<Backend> inner,
                                              std::int64_t batch_rows) {
    return std::make_unique<GuardedBackend>(std::move(inner), batch_rows);
}

}  // namespace qshard::test
