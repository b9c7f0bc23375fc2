#include "backend/cuda/dispatch.cuh"
#include "backend/cuda/reduce.cuh"

/// Attention by fp32 multiply-adds, for fp32 compute and for devices without bf16 tensor cores: a
/// warp has one row (a query, or a key) of one head. Lanes first share out the other side's rows,
/// 32 at a time from a multiple of 32 on, then the columns.
namespace qshard::cuda {
namespace {

constexpr int kMaxWidth = 256, kColumns = kMaxWidth / kWarp;

struct Score {
    float value, slope;
};
__device__ __forceinline__ Score score_of(float dot, const AttentionCall& call) {
    const float z = dot * call.scale;
    if (call.softcap == 0) return {z, 1.0f};
    const float t = tanhf(z / call.softcap);
    return {call.softcap * t, 1.0f - t * t};
}

/// This warp's columns of a row: lane, lane + 32, ...
template <class T>
__device__ void load_columns(const T* row, int width, float (&v)[kColumns]) {
    const int lane = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
        v[c] = c * kWarp + lane < width ? to_float(row[c * kWarp + lane]) : 0.0f;
}
template <class T>
__device__ float dot(const float* a, const T* b, int width) {
    float sum = 0;
    for (int c = 0; c < width; ++c) sum = fmaf(a[c], to_float(b[c]), sum);
    return sum;
}
/// Copies a row to shared memory as fp32, where its warp reads it.
template <class T>
__device__ void share_row(const T* row, int width, float* shared) {
    for (int c = static_cast<int>(threadIdx.x); c < width; c += kWarp) shared[c] = to_float(row[c]);
    __syncwarp();
}

template <class T>
__global__ void plain_forward_kernel(AttentionCall call, const QueryTile* tiles) {
    __shared__ float rows[kPlainTile][kMaxWidth];
    const QueryTile tile = tiles[blockIdx.x];
    const int row = static_cast<int>(threadIdx.y), lane = static_cast<int>(threadIdx.x);
    if (row >= tile.rows) return;
    const auto head = static_cast<std::int64_t>(blockIdx.y);
    const std::int64_t kv_head = head / (call.heads / call.kv_heads);
    const int width = static_cast<int>(call.width), window = static_cast<int>(call.window);
    const std::int64_t k_stride = call.kv_heads * call.width;
    const std::int64_t q_at = ((tile.q_row + row) * call.heads + head) * call.width;
    const std::int64_t k_at = tile.k_row * k_stride + kv_head * call.width;
    const T *k = static_cast<const T*>(call.k) + k_at, *v = static_cast<const T*>(call.v) + k_at;
    share_row(static_cast<const T*>(call.q) + q_at, width, rows[row]);

    const int visible = tile.visible + row;
    const int first = window > 0 && visible > window ? visible - window : 0;
    float top = -INFINITY, sum = 0, out[kColumns] = {};
    for (int key = first / kWarp * kWarp; key < visible; key += kWarp) {
        const int mine = key + lane;
        const bool seen = mine >= first && mine < visible;
        const float s =
            seen ? score_of(dot(rows[row], k + mine * k_stride, width), call).value : -INFINITY;
        const float larger = fmaxf(top, warp_max(s));
        const float shrink = expf(top - larger), p = expf(s - larger);
        top = larger;
        sum = sum * shrink + warp_sum(p);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) out[c] *= shrink;
        for (int j = 0; j < kWarp && key + j < visible; ++j) {
            const float weight = __shfl_sync(kAllLanes, p, j);
            float values[kColumns];
            load_columns(v + (key + j) * k_stride, width, values);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) out[c] = fmaf(weight, values[c], out[c]);
        }
    }
    T* to = static_cast<T*>(call.out) + q_at;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
        if (c * kWarp + lane < width) assign(to[c * kWarp + lane], out[c] / sum);
    }
    if (call.lse != nullptr && lane == 0)
        call.lse[(tile.q_row + row) * call.heads + head] = top + logf(sum);
}

template <class T, class D>
__global__ void plain_dq_kernel(AttentionCall call, const QueryTile* tiles) {
    __shared__ float rows[kPlainTile][2][kMaxWidth];
    const QueryTile tile = tiles[blockIdx.x];
    const int row = static_cast<int>(threadIdx.y), lane = static_cast<int>(threadIdx.x);
    if (row >= tile.rows) return;
    const auto head = static_cast<std::int64_t>(blockIdx.y);
    const std::int64_t kv_head = head / (call.heads / call.kv_heads);
    const int width = static_cast<int>(call.width), window = static_cast<int>(call.window);
    const std::int64_t k_stride = call.kv_heads * call.width;
    const std::int64_t at = (tile.q_row + row) * call.heads + head, q_at = at * call.width;
    const std::int64_t k_at = tile.k_row * k_stride + kv_head * call.width;
    const T *k = static_cast<const T*>(call.k) + k_at, *v = static_cast<const T*>(call.v) + k_at;
    share_row(static_cast<const T*>(call.q) + q_at, width, rows[row][0]);
    share_row(static_cast<const D*>(call.dout) + q_at, width, rows[row][1]);
    const float lse = call.lse[at], delta = call.delta[at];

    const int visible = tile.visible + row;
    const int first = window > 0 && visible > window ? visible - window : 0;
    float dq[kColumns] = {};
    for (int key = first / kWarp * kWarp; key < visible; key += kWarp) {
        const int mine = key + lane;
        float ds = 0;
        if (mine >= first && mine < visible) {
            const Score s = score_of(dot(rows[row][0], k + mine * k_stride, width), call);
            const float dp = dot(rows[row][1], v + mine * k_stride, width);
            ds = expf(s.value - lse) * (dp - delta) * s.slope * call.scale;
        }
        for (int j = 0; j < kWarp && key + j < visible; ++j) {
            const float weight = __shfl_sync(kAllLanes, ds, j);
            float values[kColumns];
            load_columns(k + (key + j) * k_stride, width, values);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) dq[c] = fmaf(weight, values[c], dq[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
        if (c * kWarp + lane < width) call.dq[q_at + c * kWarp + lane] = dq[c];
    }
}

template <class T, class D>
__global__ void plain_dkdv_kernel(AttentionCall call, const KeyTile* tiles) {
    __shared__ float rows[kPlainTile][2][kMaxWidth];
    const KeyTile tile = tiles[blockIdx.x];
    const int row = static_cast<int>(threadIdx.y), lane = static_cast<int>(threadIdx.x);
    if (row >= tile.count) return;
    const auto kv_head = static_cast<std::int64_t>(blockIdx.y);
    const int width = static_cast<int>(call.width), window = static_cast<int>(call.window);
    const int key = tile.first + row;
    const std::int64_t k_at = ((tile.row + key) * call.kv_heads + kv_head) * call.width;
    share_row(static_cast<const T*>(call.k) + k_at, width, rows[row][0]);
    share_row(static_cast<const T*>(call.v) + k_at, width, rows[row][1]);

    const int end = window > 0 && key + window < tile.length ? key + window : tile.length;
    const std::int64_t group = call.heads / call.kv_heads;
    float dk[kColumns] = {}, dv[kColumns] = {};
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int query = key / kWarp * kWarp; query < end; query += kWarp) {
            const int mine = query + lane;
            float p = 0, ds = 0;
            if (mine >= key && mine < end) {
                const std::int64_t at = (tile.row + mine) * call.heads + head;
                const Score s = score_of(
                    dot(rows[row][0], static_cast<const T*>(call.q) + at * call.width, width),
                    call);
                const float dp =
                    dot(rows[row][1], static_cast<const D*>(call.dout) + at * call.width, width);
                p = expf(s.value - call.lse[at]);
                ds = p * (dp - call.delta[at]) * s.slope * call.scale;
            }
            for (int j = 0; j < kWarp && query + j < end; ++j) {
                const float weight_v = __shfl_sync(kAllLanes, p, j);
                const float weight_k = __shfl_sync(kAllLanes, ds, j);
                const std::int64_t at = ((tile.row + query + j) * call.heads + head) * call.width;
                float values[kColumns];
                load_columns(static_cast<const D*>(call.dout) + at, width, values);
#pragma unroll
                for (int c = 0; c < kColumns; ++c) dv[c] = fmaf(weight_v, values[c], dv[c]);
                load_columns(static_cast<const T*>(call.q) + at, width, values);
#pragma unroll
                for (int c = 0; c < kColumns; ++c) dk[c] = fmaf(weight_k, values[c], dk[c]);
            }
        }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
        if (c * kWarp + lane >= width) continue;
        call.dk[k_at + c * kWarp + lane] = dk[c];
        call.dv[k_at + c * kWarp + lane] = dv[c];
    }
}

dim3 grid_of(std::int64_t count, std::int64_t heads) {
    return dim3(static_cast<unsigned>(count), static_cast<unsigned>(heads));
}
const dim3 kBlock(kWarp, kPlainTile);

/// Calls f with null pointers of the types of q, k, v and of dout.
template <class F>
void typed_call(const AttentionCall& call, const F& f) {
    typed(call.is_bf16, [&](auto* t) { typed(call.dout_is_bf16, [&](auto* d) { f(t, d); }); });
}

}  // namespace

void plain_attention_forward(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                             Stream stream) {
    typed(call.is_bf16, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        launch(plain_forward_kernel<T>, grid_of(count, call.heads), kBlock, 0, stream, call, tiles);
    });
}

void plain_attention_dq(const AttentionCall& call, const QueryTile* tiles, std::int64_t count,
                        Stream stream) {
    typed_call(call, [&](auto* t, auto* d) {
        using T = std::remove_pointer_t<decltype(t)>;
        using D = std::remove_pointer_t<decltype(d)>;
        launch(plain_dq_kernel<T, D>, grid_of(count, call.heads), kBlock, 0, stream, call, tiles);
    });
}

void plain_attention_dkdv(const AttentionCall& call, const KeyTile* tiles, std::int64_t count,
                          Stream stream) {
    typed_call(call, [&](auto* t, auto* d) {
        using T = std::remove_pointer_t<decltype(t)>;
        using D = std::remove_pointer_t<decltype(d)>;
        launch(plain_dkdv_kernel<T, D>, grid_of(count, call.kv_heads), kBlock, 0, stream, call,
               tiles);
    });
}

}  // namespace qshard::cuda
