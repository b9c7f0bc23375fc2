#pragma once

#include "backend/cuda/dispatch.cuh"
#include "backend/cuda/reduce.cuh"

/// What the tensor cores' attention kernels share. Tiles lie in shared memory by rows of kWidth
/// elements (heads narrower than that are padded with zeros) and kSkew more, which keep the rows of
/// a fragment in different banks. A row's arithmetic does not depend on the tile it is in: key
/// blocks begin at multiples of their size from the sequence's first key, and a block that a row
/// sees nothing of leaves its sums as they are.
namespace qshard::cuda {

constexpr int kSkew = 8;
constexpr float kLog2E = 1.4426950408889634f;

/// Sizes by head width: warps have 16 queries (or keys) each.
template <int kWidth>
struct AttentionSizes {
    static constexpr int kStride = kWidth + kSkew;
    static constexpr int kForwardWarps = 4;
    static constexpr int kForwardKeys = kWidth > 128 ? 32 : 64;
    static constexpr int kBackwardWarps = kWidth > 128 ? 2 : 4;
    static constexpr int kBackwardKeys = kWidth > 64 ? 32 : 64;  ///< of a step of dq
    static constexpr int kBackwardQueries = 32;                  ///< of a step of dk and dv
    static constexpr int kOutputs =
        kWidth > 128 ? kWidth / 2 : kWidth;  ///< columns of a dk, dv block
    static constexpr std::size_t bytes(int rows) {
        return static_cast<std::size_t>(rows) * kStride * sizeof(bf16);
    }
};

/// Calls f with the sizes that fit heads of this width.
template <class F>
void for_width(std::int64_t width, const F& f) {
    if (width <= 64) {
        f(std::integral_constant<int, 64>());
    } else if (width <= 96) {
        f(std::integral_constant<int, 96>());
    } else if (width <= 128) {
        f(std::integral_constant<int, 128>());
    } else {
        f(std::integral_constant<int, 256>());
    }
}

/// Begins to copy rows [first, first + kRows) of one head to a tile; rows from `count` on become
/// zeros. `stride` is the elements between the tokens of `from`.
template <int kWidth, int kRows, int kThreads>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* from, std::int64_t first,
                                          std::int64_t count, std::int64_t stride, int width) {
    constexpr int kPieces = kWidth / 8;
    for (int p = static_cast<int>(threadIdx.x); p < kRows * kPieces; p += kThreads) {
        const int r = p / kPieces, c = p % kPieces * 8;
        const bool valid = first + r < count && c < width;
        const bf16* source = valid ? from + (first + r) * stride + c : from;
        copy_async(tile + r * (kWidth + kSkew) + c, source, valid);
    }
}

/// A score after scale and soft cap, and the derivative of the cap.
struct Score {
    float value, slope;
};
__device__ __forceinline__ Score score_of(float dot, float scale, float softcap) {
    const float z = dot * scale;
    if (softcap == 0) return {z, 1.0f};
    const float t = tanhf(z / softcap);
    return {softcap * t, 1.0f - t * t};
}

}  // namespace qshard::cuda
