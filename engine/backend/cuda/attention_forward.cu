#include "backend/cuda/attention_tiles.cuh"

/// Attention over tiles of 64 queries, one head: the keys go by in blocks, with a running maximum
/// and sum. (Dao, "FlashAttention-2", 2023)
namespace qshard::cuda {
namespace {

template <int kWidth, bool kCapped>
__global__ void __launch_bounds__(AttentionSizes<kWidth>::kForwardWarps* kWarp)
    attention_forward_kernel(AttentionCall call, const QueryTile* tiles) {
    using Sizes = AttentionSizes<kWidth>;
    constexpr int kThreads = Sizes::kForwardWarps * kWarp, kQueries = Sizes::kForwardWarps * 16;
    constexpr int kKeys = Sizes::kForwardKeys, kStride = Sizes::kStride;
    bf16* q = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* k = q + kQueries * kStride;
    bf16* v = k + kKeys * kStride;

    const QueryPlace here(call, tiles);
    const bf16* q_from = static_cast<const bf16*>(call.q) + here.q_at;
    const bf16* k_from = static_cast<const bf16*>(call.k) + here.k_at;
    const bf16* v_from = static_cast<const bf16*>(call.v) + here.k_at;
    const std::int64_t k_stride = here.k_stride;
    const int width = here.width, key_count = here.key_count, lane = here.lane;

    load_tile<kWidth, kQueries, kThreads>(q, q_from, 0, here.tile.rows, here.q_stride, width);
    int key = here.first_key / kKeys * kKeys;
    load_tile<kWidth, kKeys, kThreads>(k, k_from, key, key_count, k_stride, width);
    copy_async_commit();

    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    float out[kWidth / 8][4] = {};
    for (; key < key_count; key += kKeys) {
        load_tile<kWidth, kKeys, kThreads>(v, v_from, key, key_count, k_stride, width);
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        float s[kKeys / 8][4] = {};
        add_scores<kWidth, kKeys>(s, q + here.warp * 16 * kStride, k, lane);
        __syncthreads();  // everyone has read k
        load_tile<kWidth, kKeys, kThreads>(k, k_from, key + kKeys, key_count, k_stride, width);
        copy_async_commit();

        const bool whole = here.see_all(key, kKeys);
        float block_top[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                s[j][e] = score_of<kCapped>(s[j][e], call.scale, call.softcap).value;
                if (!whole &&
                    !here.sees(here.my_row + e / 2 * 8, key + j * 8 + lane % 4 * 2 + e % 2))
                    s[j][e] = -INFINITY;
                block_top[e / 2] = fmaxf(block_top[e / 2], s[j][e]);
            }
        }
        float base[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float m = block_top[half];
            m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 1));
            m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 2));
            m = fmaxf(m, top[half]);
            base[half] = m == -INFINITY ? 0.0f : m;  // nothing seen so far
            const float shrink = exp2f((top[half] - base[half]) * kLog2E);
            top[half] = m;
            sum[half] *= shrink;
#pragma unroll
            for (int j = 0; j < kWidth / 8; ++j) {
                out[j][2 * half] *= shrink;
                out[j][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                s[j][e] = exp2f((s[j][e] - base[e / 2]) * kLog2E);
                sum[e / 2] += s[j][e];
            }
        }
        copy_async_wait<1>();
        __syncthreads();
        add_product<kWidth, kKeys, kWidth>(out, s, v, lane);
        __syncthreads();  // everyone has read v
    }
    copy_async_wait<0>();

    bf16* to = static_cast<bf16*>(call.out) + here.q_at;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = here.my_row + half * 8;
        float total = sum[half];
        total += __shfl_xor_sync(kAllLanes, total, 1);
        total += __shfl_xor_sync(kAllLanes, total, 2);
        if (row >= here.tile.rows) continue;
        const float inverse = 1.0f / total;
#pragma unroll
        for (int j = 0; j < kWidth / 8; ++j) {
            const int c = j * 8 + lane % 4 * 2;
            if (c >= width) continue;
            *reinterpret_cast<std::uint32_t*>(to + row * here.q_stride + c) =
                pair(out[j][2 * half] * inverse, out[j][2 * half + 1] * inverse);
        }
        if (call.lse != nullptr && lane % 4 == 0)
            call.lse[(here.tile.q_row + row) * call.heads + here.head] = top[half] + logf(total);
    }
}

}  // namespace

bool tensor_core_width(std::int64_t width) {
    return width % 8 == 0 && width <= 256;
}

int forward_tile(std::int64_t width) {
    int queries = 0;
    for_width(width, [&](auto w) { queries = AttentionSizes<w()>::kForwardWarps * 16; });
    return queries;
}

void attention_forward(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                       Stream stream) {
    for_width(call.width, [&](auto w) {
        using Sizes = AttentionSizes<w()>;
        constexpr std::size_t kBytes =
            Sizes::bytes(Sizes::kForwardWarps * 16 + 2 * Sizes::kForwardKeys);
        for_cap(call.softcap, [&](auto capped) {
            allow_shared(attention_forward_kernel<w(), capped()>, kBytes);
            launch(attention_forward_kernel<w(), capped()>,
                   dim3(static_cast<unsigned>(count), static_cast<unsigned>(call.heads)),
                   dim3(Sizes::kForwardWarps * kWarp), kBytes, stream, call, tiles);
        });
    });
}

}  // namespace qshard::cuda
