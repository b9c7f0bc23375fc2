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
    /// Blocks on a multiprocessor that the compiler is asked to leave registers for; 0: as it
    /// likes, which is 3 or 2, and no local memory (tests/gpu/spills.sh).
    static constexpr int kDqBlocks = kWidth == 96 ? 3 : 0;
    static constexpr std::size_t bytes(int rows) {
        return static_cast<std::size_t>(rows) * kStride * sizeof(bf16);
    }
};

/// Calls f with whether there is a soft cap.
template <class F>
void for_cap(float softcap, const F& f) {
    if (softcap == 0) {
        f(std::false_type());
    } else {
        f(std::true_type());
    }
}

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
template <bool kCapped>
__device__ __forceinline__ Score score_of(float dot, float scale, float softcap) {
    const float z = dot * scale;
    if constexpr (!kCapped) return {z, 1.0f};
    const float t = tanhf(z / softcap);
    return {softcap * t, 1.0f - t * t};
}

/// Where a block of a kernel over tiles of queries works: one tile, one head. Rows and lanes are
/// those of its 16-row fragments.
struct QueryPlace {
    QueryTile tile;
    std::int64_t head, q_stride, k_stride;
    std::int64_t q_at, k_at;  ///< elements before the tile's first query and its sequence's keys
    int width, window;
    int first_key, key_count;  ///< keys that any of the queries sees: [first_key, key_count)
    int lane, warp, my_row;    ///< my_row: of the thread's first elements; the others are 8 below

    __device__ __forceinline__ QueryPlace(const AttentionCall& call, const QueryTile* tiles)
        : tile(tiles[blockIdx.x]),
          head(static_cast<std::int64_t>(blockIdx.y)),
          q_stride(call.heads * call.width),
          k_stride(call.kv_heads * call.width),
          q_at(tile.q_row * q_stride + head * call.width),
          k_at(tile.k_row * k_stride + head / (call.heads / call.kv_heads) * call.width),
          width(static_cast<int>(call.width)),
          window(static_cast<int>(call.window)),
          first_key(window > 0 && tile.visible > window ? tile.visible - window : 0),
          key_count(tile.visible + tile.rows - 1),
          lane(static_cast<int>(threadIdx.x) % kWarp),
          warp(static_cast<int>(threadIdx.x) / kWarp),
          my_row(warp * 16 + lane / 4) {}

    /// Whether query `row` of the tile sees key `at`.
    __device__ __forceinline__ bool sees(int row, int at) const {
        const int visible = tile.visible + row;
        return at < visible && (window == 0 || at >= visible - window);
    }
    /// Whether every query of the tile sees all of the `count` keys from `first` on.
    __device__ __forceinline__ bool see_all(int first, int count) const {
        return first + count <= tile.visible &&
               (window == 0 || first >= tile.visible + tile.rows - 1 - window);
    }
};

/// s += a bT for the warp's 16 rows of the tile at `a` and kCols rows of the tile at `b`.
template <int kWidth, int kCols>
__device__ __forceinline__ void add_scores(float (&s)[kCols / 8][4], const bf16* a, const bf16* b,
                                           int lane) {
    constexpr int kStride = AttentionSizes<kWidth>::kStride;
#pragma unroll
    for (int c = 0; c < kWidth; c += 16) {
        std::uint32_t left[4];
        load_a(left, a + c, kStride, lane);
#pragma unroll
        for (int j = 0; j < kCols / 16; ++j) {
            std::uint32_t right[4];
            load_b_columns(right, b + j * 16 * kStride + c, kStride, lane);
            multiply(s[2 * j], left, right[0], right[1]);
            multiply(s[2 * j + 1], left, right[2], right[3]);
        }
    }
}

/// out += s b for 16 rows of `s` and the first kColumns columns of the tile at `b`; s is rounded.
template <int kWidth, int kRows, int kColumns>
__device__ __forceinline__ void add_product(float (&out)[kColumns / 8][4],
                                            const float (&s)[kRows / 8][4], const bf16* b,
                                            int lane) {
    constexpr int kStride = AttentionSizes<kWidth>::kStride;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
        const std::uint32_t left[4] = {
            pair(s[2 * i][0], s[2 * i][1]), pair(s[2 * i][2], s[2 * i][3]),
            pair(s[2 * i + 1][0], s[2 * i + 1][1]), pair(s[2 * i + 1][2], s[2 * i + 1][3])};
#pragma unroll
        for (int j = 0; j < kColumns / 16; ++j) {
            std::uint32_t right[4];
            load_b(right, b + i * 16 * kStride + j * 16, kStride, lane);
            multiply(out[2 * j], left, right[0], right[1]);
            multiply(out[2 * j + 1], left, right[2], right[3]);
        }
    }
}

}  // namespace qshard::cuda
