#include "backend/cuda/matmul.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <optional>
#include <vector>

#include "backend/cuda/sizes.h"
#include "base/error.h"

namespace qshard::cuda {
namespace {

constexpr std::int64_t kTypicalRows = 2048;  ///< what algorithms are chosen for
/// Rows that an algorithm must also be able to compute, but for those that gemm() cuts up.
constexpr std::array<std::int64_t, 6> kOtherRows = {1, 3, 72, 500, 16384, 131072};

constexpr std::int64_t kLarge = std::int64_t{1} << 20;  ///< elements of a weight worth a warning

/// Algorithms for a matrix times a vector or a few: their order of sums changes with the size of
/// the result, without a word in their configuration.
constexpr std::array<std::int32_t, 2> kGemv = {13, 14};

/// Most bytes, up to 16, that the addresses of all rows of `cols` elements are multiples of.
std::uint32_t alignment_of(std::int64_t cols, bool is_bf16) {
    const std::int64_t bytes = cols * (is_bf16 ? 2 : 4);
    return static_cast<std::uint32_t>(std::min<std::int64_t>(bytes & -bytes, 16));
}

void require(cublasStatus_t status, const char* doing) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw SystemError(ExitCode::kUnavailable, fmt::format("cuBLASLt failed in {}: {}", doing,
                                                          cublasLtGetStatusString(status)));
}

struct LayoutDelete {
    void operator()(cublasLtMatrixLayout_t layout) const { cublasLtMatrixLayoutDestroy(layout); }
};
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, LayoutDelete>;
struct DescDelete {
    void operator()(cublasLtMatmulDesc_t desc) const { cublasLtMatmulDescDestroy(desc); }
};
using Desc = std::unique_ptr<cublasLtMatmulDescOpaque_t, DescDelete>;
struct PreferenceDelete {
    void operator()(cublasLtMatmulPreference_t p) const { cublasLtMatmulPreferenceDestroy(p); }
};
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, PreferenceDelete>;
struct HandleDelete {
    void operator()(cublasLtHandle_t handle) const { cublasLtDestroy(handle); }
};
using Handle = std::unique_ptr<cublasLtContext, HandleDelete>;

/// cuBLASLt's matrices are column-major: a row-major matrix is its transpose.
Layout layout_of(bool is_bf16, std::int64_t rows, std::int64_t cols) {
    cublasLtMatrixLayout_t layout = nullptr;
    require(cublasLtMatrixLayoutCreate(&layout, is_bf16 ? CUDA_R_16BF : CUDA_R_32F,
                                       static_cast<std::uint64_t>(cols),
                                       static_cast<std::uint64_t>(rows), cols),
            "describing a matrix");
    return Layout(layout);
}

struct Layouts {
    Layout a, b, c;
    Layouts(const MatmulShape& s, std::int64_t rows)
        : a(layout_of(s.is_bf16, rows, s.inner)),
          b(s.b_transposed ? layout_of(s.is_bf16, s.outer, s.inner)
                           : layout_of(s.is_bf16, s.inner, s.outer)),
          c(layout_of(s.c_is_bf16, rows, s.outer)) {}
};

class CublasMatmul final : public Matmul {
  public:
    CublasMatmul(Stream stream, void* workspace, std::size_t bytes)
        : stream_(stream), workspace_(workspace), bytes_(bytes) {
        cublasLtHandle_t handle = nullptr;
        require(cublasLtCreate(&handle), "starting");
        handle_.reset(handle);
        for (Desc* product : {&desc_, &transposed_}) {
            cublasLtMatmulDesc_t desc = nullptr;
            require(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                    "describing a product");
            product->reset(desc);
        }
        const cublasOperation_t transpose = CUBLAS_OP_T;
        require(cublasLtMatmulDescSetAttribute(transposed_.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                               &transpose, sizeof transpose),
                "describing a product");
    }

    bool takes(const MatmulShape& shape) override { return algorithm_of(shape).has_value(); }

    void run(const MatmulShape& shape, std::int64_t rows, const void* a, const void* b,
             void* c) override {
        if (rows == 0) return;
        const std::optional<cublasLtMatmulAlgo_t>& algorithm = algorithm_of(shape);
        check(algorithm.has_value(), "cuBLASLt is asked for products that it takes");
        const Layouts layouts(shape, rows);
        const float one = 1.0f, beta = shape.accumulate ? 1.0f : 0.0f;
        // c^T[outer, rows] = b^T[outer, inner] a^T[inner, rows] in column-major terms.
        require(cublasLtMatmul(handle_.get(), desc_of(shape), &one, b, layouts.b.get(), a,
                               layouts.a.get(), &beta, c, layouts.c.get(), c, layouts.c.get(),
                               &*algorithm, workspace_, bytes_, stream_),
                "a product");
    }

  private:
    cublasLtMatmulDesc_t desc_of(const MatmulShape& shape) const {
        return (shape.b_transposed ? transposed_ : desc_).get();
    }

    const std::optional<cublasLtMatmulAlgo_t>& algorithm_of(const MatmulShape& shape) {
        const auto found = algorithms_.find(shape);
        if (found != algorithms_.end()) return found->second;
        const auto& chosen = algorithms_.emplace(shape, choose(shape)).first->second;
        if (!chosen && shape.inner * shape.outer >= kLarge) {
            fmt::print(stderr,
                       "warning: cuBLASLt has no algorithm for products of [rows, {}] and [{}, {}] "
                       "in {}; a plain kernel, many times slower, computes them\n",
                       shape.inner, shape.inner, shape.outer, shape.is_bf16 ? "bf16" : "fp32");
        }
        return chosen;
    }

    /// The first of cuBLASLt's proposals for kTypicalRows that sums in one piece and takes any
    /// rows, if there is one.
    std::optional<cublasLtMatmulAlgo_t> choose(const MatmulShape& shape) const {
        cublasLtMatmulPreference_t raw = nullptr;
        require(cublasLtMatmulPreferenceCreate(&raw), "choosing an algorithm");
        const Preference preference(raw);
        const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
            require(cublasLtMatmulPreferenceSetAttribute(raw, what, &value, sizeof value),
                    "choosing an algorithm");
        };
        set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(bytes_));
        set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
        if (shape.is_bf16) {  // tensor cores only
            set(CUBLASLT_MATMUL_PREF_IMPL_MASK,
                ~static_cast<std::uint64_t>(CUBLASLT_NUMERICAL_IMPL_FLAGS_FMA));
        }
        // In column-major terms A is b, and B is a.
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            alignment_of(shape.b_transposed ? shape.inner : shape.outer, shape.is_bf16));
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(shape.inner, shape.is_bf16));
        for (const auto result : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
            set(result, alignment_of(shape.outer, shape.c_is_bf16));
        }
        std::vector<cublasLtMatmulHeuristicResult_t> results(32);
        int count = 0;
        const Layouts layouts(shape, kTypicalRows);
        const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
            handle_.get(), desc_of(shape), layouts.b.get(), layouts.a.get(), layouts.c.get(),
            layouts.c.get(), raw, static_cast<int>(results.size()), results.data(), &count);
        if (status == CUBLAS_STATUS_NOT_SUPPORTED) return std::nullopt;
        require(status, "choosing an algorithm");
        for (int i = 0; i < count; ++i) {
            const auto& result = results[static_cast<std::size_t>(i)];
            if (result.state == CUBLAS_STATUS_SUCCESS && fits(shape, result.algo))
                return result.algo;
        }
        return std::nullopt;
    }

    bool fits(const MatmulShape& shape, const cublasLtMatmulAlgo_t& algorithm) const {
        std::int32_t splits = 1, id = 0;
        std::size_t written = 0;
        const auto get = [&](cublasLtMatmulAlgoConfigAttributes_t what, std::int32_t& value) {
            cublasLtMatmulAlgoConfigGetAttribute(&algorithm, what, &value, sizeof value, &written);
        };
        get(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, splits);
        get(CUBLASLT_ALGO_CONFIG_ID, id);
        if (splits > 1 || std::find(kGemv.begin(), kGemv.end(), id) != kGemv.end()) return false;
        const std::int64_t most =
            std::max(library_rows(shape.inner, shape.outer, shape.is_bf16), kTypicalRows);
        for (const std::int64_t other : kOtherRows) {
            const std::int64_t rows = std::min(other, most);
            const Layouts layouts(shape, rows);
            cublasLtMatmulHeuristicResult_t result{};
            if (cublasLtMatmulAlgoCheck(handle_.get(), desc_of(shape), layouts.b.get(),
                                        layouts.a.get(), layouts.c.get(), layouts.c.get(),
                                        &algorithm, &result) != CUBLAS_STATUS_SUCCESS ||
                result.workspaceSize > bytes_) {
                return false;
            }
        }
        return true;
    }

    const Stream stream_;
    void* const workspace_;
    const std::size_t bytes_;
    Handle handle_;
    Desc desc_, transposed_;
    std::map<MatmulShape, std::optional<cublasLtMatmulAlgo_t>> algorithms_;
};

}  // namespace

std::unique_ptr<Matmul> make_matmul(Stream stream, void* workspace, std::size_t bytes) {
    return std::make_unique<CublasMatmul>(stream, workspace, bytes);
}

}  // namespace qshard::cuda
