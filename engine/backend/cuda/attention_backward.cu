#include "backend/cuda/attention_tiles.cuh"

/// Derivatives of attention in two kernels without atomics: one goes over the keys of a tile of
/// queries, the other over the queries of a tile of keys; both compute the probabilities again from
/// lse. (Dao, "FlashAttention-2", 2023, algorithm 2)
namespace qshard::cuda {
namespace {

template <int kWidth, bool kCapped>
__global__ void __launch_bounds__(AttentionSizes<kWidth>::kBackwardWarps* kWarp,
                                  AttentionSizes<kWidth>::kDqBlocks)
    attention_dq_kernel(AttentionCall call, const QueryTile* tiles) {
    using Sizes = AttentionSizes<kWidth>;
    constexpr int kThreads = Sizes::kBackwardWarps * kWarp, kQueries = Sizes::kBackwardWarps * 16;
    constexpr int kKeys = Sizes::kBackwardKeys, kStride = Sizes::kStride;
    bf16* q = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* dout = q + kQueries * kStride;
    bf16* k = dout + kQueries * kStride;
    bf16* v = k + kKeys * kStride;

    const QueryPlace here(call, tiles);
    const bf16* k_from = static_cast<const bf16*>(call.k) + here.k_at;
    const bf16* v_from = static_cast<const bf16*>(call.v) + here.k_at;
    const int width = here.width, rows = here.tile.rows, lane = here.lane;

    load_tile<kWidth, kQueries, kThreads>(q, static_cast<const bf16*>(call.q) + here.q_at, 0, rows,
                                          here.q_stride, width);
    load_tile<kWidth, kQueries, kThreads>(dout, static_cast<const bf16*>(call.dout) + here.q_at, 0,
                                          rows, here.q_stride, width);
    float lse[2], delta[2];
    for (int half = 0; half < 2; ++half) {
        const int row = here.my_row + half * 8;
        const std::int64_t at = (here.tile.q_row + row) * call.heads + here.head;
        lse[half] = row < rows ? call.lse[at] : 0.0f;
        delta[half] = row < rows ? call.delta[at] : 0.0f;
    }
    float dq[kWidth / 8][4] = {};
    for (int key = here.first_key / kKeys * kKeys; key < here.key_count; key += kKeys) {
        load_tile<kWidth, kKeys, kThreads>(k, k_from, key, here.key_count, here.k_stride, width);
        load_tile<kWidth, kKeys, kThreads>(v, v_from, key, here.key_count, here.k_stride, width);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        float s[kKeys / 8][4] = {}, dp[kKeys / 8][4] = {};
        add_scores<kWidth, kKeys>(s, q + here.warp * 16 * kStride, k, lane);
        add_scores<kWidth, kKeys>(dp, dout + here.warp * 16 * kStride, v, lane);
        const bool whole = here.see_all(key, kKeys);
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = here.my_row + e / 2 * 8;
                const bool seen = whole || here.sees(row, key + j * 8 + lane % 4 * 2 + e % 2);
                const Score z = score_of<kCapped>(s[j][e], call.scale, call.softcap);
                const float p = seen ? exp2f((z.value - lse[e / 2]) * kLog2E) : 0.0f;
                s[j][e] = p * (dp[j][e] - delta[e / 2]) * z.slope * call.scale;
            }
        }
        add_product<kWidth, kKeys, kWidth>(dq, s, k, lane);
        __syncthreads();
    }
    copy_async_wait<0>();
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
        const int c = j * 8 + lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = here.my_row + half * 8;
            if (row >= rows || c >= width) continue;
            *reinterpret_cast<float2*>(call.dq + here.q_at + row * here.q_stride + c) =
                float2{dq[j][2 * half], dq[j][2 * half + 1]};
        }
    }
}

/// dk and dv of a tile of keys, summed over the heads of their group and over their queries, both
/// ascending. Wide heads are done in two halves of their columns (blockIdx.z).
template <int kWidth, bool kCapped>
__global__ void __launch_bounds__(AttentionSizes<kWidth>::kBackwardWarps* kWarp)
    attention_dkdv_kernel(AttentionCall call, const KeyTile* tiles) {
    using Sizes = AttentionSizes<kWidth>;
    constexpr int kThreads = Sizes::kBackwardWarps * kWarp, kKeys = Sizes::kBackwardWarps * 16;
    constexpr int kQueries = Sizes::kBackwardQueries, kStride = Sizes::kStride;
    constexpr int kOutputs = Sizes::kOutputs;
    __shared__ float lse[kQueries], delta[kQueries];
    bf16* k = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* v = k + kKeys * kStride;
    bf16* q = v + kKeys * kStride;
    bf16* dout = q + kQueries * kStride;

    const KeyTile tile = tiles[blockIdx.x];
    const auto kv_head = static_cast<std::int64_t>(blockIdx.y);
    const int column0 = static_cast<int>(blockIdx.z) * kOutputs;
    const int width = static_cast<int>(call.width);
    const std::int64_t q_stride = call.heads * call.width, k_stride = call.kv_heads * call.width;
    const std::int64_t k_at = (tile.row + tile.first) * k_stride + kv_head * call.width;
    const int window = static_cast<int>(call.window);
    const int last_key = tile.first + tile.count - 1;
    const int query_end =
        window > 0 && last_key + window < tile.length ? last_key + window : tile.length;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int my_key = tile.first + warp * 16 + lane / 4;  // and the one 8 below

    load_tile<kWidth, kKeys, kThreads>(k, static_cast<const bf16*>(call.k) + k_at, 0, tile.count,
                                       k_stride, width);
    load_tile<kWidth, kKeys, kThreads>(v, static_cast<const bf16*>(call.v) + k_at, 0, tile.count,
                                       k_stride, width);
    float dk[kOutputs / 8][4] = {}, dv[kOutputs / 8][4] = {};
    const std::int64_t group = call.heads / call.kv_heads;
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const std::int64_t q_at = tile.row * q_stride + head * call.width;
        for (int query = tile.first; query < query_end; query += kQueries) {
            load_tile<kWidth, kQueries, kThreads>(q, static_cast<const bf16*>(call.q) + q_at, query,
                                                  query_end, q_stride, width);
            load_tile<kWidth, kQueries, kThreads>(dout, static_cast<const bf16*>(call.dout) + q_at,
                                                  query, query_end, q_stride, width);
            copy_async_commit();
            for (int i = static_cast<int>(threadIdx.x); i < kQueries; i += kThreads) {
                const std::int64_t at = (tile.row + query + i) * call.heads + head;
                lse[i] = query + i < query_end ? call.lse[at] : 0.0f;
                delta[i] = query + i < query_end ? call.delta[at] : 0.0f;
            }
            copy_async_wait<0>();
            __syncthreads();
            // Whether all of these queries see all keys of the tile.
            const bool whole = tile.count == kKeys && query >= tile.first + kKeys - 1 &&
                               query + kQueries <= query_end &&
                               (window == 0 || query + kQueries - 1 - tile.first < window);
            float s[kQueries / 8][4] = {}, dp[kQueries / 8][4] = {};  // keys by queries
            add_scores<kWidth, kQueries>(s, k + warp * 16 * kStride, q, lane);
            add_scores<kWidth, kQueries>(dp, v + warp * 16 * kStride, dout, lane);
#pragma unroll
            for (int j = 0; j < kQueries / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int i = j * 8 + lane % 4 * 2 + e % 2, at = query + i;
                    const int key = my_key + e / 2 * 8;
                    const bool seen = whole || (at >= key && (window == 0 || at - key < window) &&
                                                at < query_end && key <= last_key);
                    const Score z = score_of<kCapped>(s[j][e], call.scale, call.softcap);
                    const float p = seen ? exp2f((z.value - lse[i]) * kLog2E) : 0.0f;
                    s[j][e] = p;
                    dp[j][e] = p * (dp[j][e] - delta[i]) * z.slope * call.scale;
                }
            }
            add_product<kWidth, kQueries, kOutputs>(dv, s, dout + column0, lane);
            add_product<kWidth, kQueries, kOutputs>(dk, dp, q + column0, lane);
            __syncthreads();
        }
    }
#pragma unroll
    for (int j = 0; j < kOutputs / 8; ++j) {
        const int c = column0 + j * 8 + lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp * 16 + lane / 4 + half * 8;
            if (row >= tile.count || c >= width) continue;
            const std::int64_t at = k_at + row * k_stride + c;
            *reinterpret_cast<float2*>(call.dk + at) = float2{dk[j][2 * half], dk[j][2 * half + 1]};
            *reinterpret_cast<float2*>(call.dv + at) = float2{dv[j][2 * half], dv[j][2 * half + 1]};
        }
    }
}

template <int kWidth>
constexpr std::size_t kBackwardBytes = AttentionSizes<kWidth>::bytes(
    2 * AttentionSizes<kWidth>::kBackwardWarps * 16 + 2 * AttentionSizes<kWidth>::kBackwardKeys);
template <int kWidth>
constexpr std::size_t kKeyBytes = AttentionSizes<kWidth>::bytes(
    2 * AttentionSizes<kWidth>::kBackwardWarps * 16 + 2 * AttentionSizes<kWidth>::kBackwardQueries);

}  // namespace

int query_tile(std::int64_t width) {
    int queries = 0;
    for_width(width, [&](auto w) { queries = AttentionSizes<w()>::kBackwardWarps * 16; });
    return queries;
}

int key_tile(std::int64_t width) {
    return query_tile(width);
}

void attention_dq(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                  Stream stream) {
    for_width(call.width, [&](auto w) {
        for_cap(call.softcap, [&](auto capped) {
            allow_shared(attention_dq_kernel<w(), capped()>, kBackwardBytes<w()>);
            launch(attention_dq_kernel<w(), capped()>,
                   dim3(static_cast<unsigned>(count), static_cast<unsigned>(call.heads)),
                   dim3(AttentionSizes<w()>::kBackwardWarps * kWarp), kBackwardBytes<w()>, stream,
                   call, tiles);
        });
    });
}

void attention_dkdv(const AttentionCall& call, const KeyTile* tiles, std::int64_t count,
                    Stream stream) {
    for_width(call.width, [&](auto w) {
        using Sizes = AttentionSizes<w()>;
        for_cap(call.softcap, [&](auto capped) {
            allow_shared(attention_dkdv_kernel<w(), capped()>, kKeyBytes<w()>);
            launch(attention_dkdv_kernel<w(), capped()>,
                   dim3(static_cast<unsigned>(count), static_cast<unsigned>(call.kv_heads),
                        static_cast<unsigned>(w() / Sizes::kOutputs)),
                   dim3(Sizes::kBackwardWarps * kWarp), kKeyBytes<w()>, stream, call, tiles);
        });
    });
}

}  // namespace qshard::cuda
