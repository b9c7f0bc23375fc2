#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/cuda/kernels.h"

namespace qshard::cuda {

/// c[rows, outer] = a[rows, inner] b[inner, outer] (+ c if accumulate), all row-major and
/// contiguous, b or its transpose; a and b of one dtype, sums in fp32 (never TF32), one rounding to
/// c's dtype.
struct MatmulShape {
    std::int64_t inner, outer;
    bool is_bf16;       ///< a and b
    bool b_transposed;  ///< b lies as [outer, inner]
    bool c_is_bf16;     ///< only without accumulate
    bool accumulate;
    auto operator<=>(const MatmulShape&) const = default;
};

/// Large products. For a shape there is one algorithm whatever the rows, without a split of the
/// inner dimension, so that a row's bits depend on nothing but the row.
class Matmul {
  public:
    virtual ~Matmul() = default;
    /// Whether there is such an algorithm.
    virtual bool takes(const MatmulShape& shape) = 0;
    /// A shape that is taken.
    virtual void run(const MatmulShape& shape, std::int64_t rows, const void* a, const void* b,
                     void* c) = 0;
};

/// `workspace` is aligned to 256 bytes and used by one product at a time, on `stream`.
std::unique_ptr<Matmul> make_matmul(Stream stream, void* workspace, std::size_t bytes);

}  // namespace qshard::cuda
