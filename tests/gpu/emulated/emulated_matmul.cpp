#include <cuda_runtime.h>

#include "backend/cuda/matmul.h"
#include "base/dtype.h"
#include "emulator.h"

namespace qshard::cuda {
namespace {

class EmulatedMatmul final : public Matmul {
  public:
    explicit EmulatedMatmul(Stream stream) : stream_(stream) {}
    /// As a library that has nothing for some shapes, so that the plain kernel has its turn.
    bool takes(const MatmulShape& s) override { return s.outer % 8 == 0; }
    void run(const MatmulShape& s, std::int64_t rows, const void* a, const void* b,
             void* c) override {
        const auto at = [&](const void* x, std::int64_t i) {
            return s.is_bf16 ? to_float(static_cast<const bf16*>(x)[i])
                             : static_cast<const float*>(x)[i];
        };
        stream_->finish();
        emulator::open(true);
        for (std::int64_t m = 0; m < rows; ++m) {
            for (std::int64_t n = 0; n < s.outer; ++n) {
                float sum = 0;
                for (std::int64_t k = 0; k < s.inner; ++k)
                    sum += at(a, m * s.inner + k) *
                           at(b, s.b_transposed ? n * s.inner + k : k * s.outer + n);
                if (s.c_is_bf16) {
                    static_cast<bf16*>(c)[m * s.outer + n] = to_bf16(sum);
                } else {
                    float& to = static_cast<float*>(c)[m * s.outer + n];
                    to = s.accumulate ? to + sum : sum;
                }
            }
        }
        emulator::open(false);
    }

  private:
    const Stream stream_;
};

}  // namespace

std::unique_ptr<Matmul> make_matmul(Stream stream, void*, std::size_t) {
    return std::make_unique<EmulatedMatmul>(stream);
}

}  // namespace qshard::cuda
