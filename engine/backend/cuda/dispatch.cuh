#pragma once

#include <algorithm>
#include <type_traits>

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"

/// From operands of a dtype known at run time to kernels of types.
namespace qshard::cuda {

template <class T>
const T* as(const In& x) {
    return static_cast<const T*>(x.data);
}
template <class T>
T* as(const Out& x) {
    return static_cast<T*>(x.data);
}

/// Calls f with a null pointer of the operand's type.
template <class F>
void typed(bool is_bf16, const F& f) {
    if (is_bf16) {
        f(static_cast<bf16*>(nullptr));
    } else {
        f(static_cast<float*>(nullptr));
    }
}

inline bool aligned(const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

inline unsigned blocks_of(std::int64_t count, std::int64_t per_block) {
    return static_cast<unsigned>((count + per_block - 1) / per_block);
}

/// Grids have at most 65,535 blocks along y: calls body(first row, rows) for parts of that many.
template <class F>
void for_row_blocks(std::int64_t rows, const F& body) {
    constexpr std::int64_t kMost = 65535;
    for (std::int64_t row = 0; row < rows; row += kMost)
        body(row, static_cast<unsigned>(std::min(kMost, rows - row)));
}

}  // namespace qshard::cuda
