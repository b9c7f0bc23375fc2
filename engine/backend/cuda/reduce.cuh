#pragma once

#include "backend/cuda/device.cuh"

/// Helpers over device.cuh: sums in a fixed order, vectors of four elements, matrix fragments.
namespace qshard::cuda {

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
    for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int step = kWarp / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
}

/// Sum over the threads along x of a block (a multiple of 32, at most 1024); everyone gets it.
/// `shared` has 32 values and is free again after the call.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
    x = warp_sum(x);
    if (blockDim.x == kWarp) return x;
    const unsigned warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    if (threadIdx.x % kWarp == 0) shared[warp] = x;
    __syncthreads();
    T sum = 0;
    for (unsigned w = 0; w < warps; ++w) sum += shared[w];
    __syncthreads();
    return sum;
}
__device__ __forceinline__ float block_max(float x, float* shared) {
    x = warp_max(x);
    if (blockDim.x == kWarp) return x;
    const unsigned warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    if (threadIdx.x % kWarp == 0) shared[warp] = x;
    __syncthreads();
    float largest = shared[0];
    for (unsigned w = 1; w < warps; ++w) largest = fmaxf(largest, shared[w]);
    __syncthreads();
    return largest;
}

/// Up to four elements; `wide`: all four, aligned to their bytes.
__device__ __forceinline__ void load4(const float* p, int count, bool wide, float (&v)[4]) {
    if (wide && count >= 4) {
        const float4 all = *reinterpret_cast<const float4*>(p);
        v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
        return;
    }
    for (int i = 0; i < 4; ++i) v[i] = i < count ? p[i] : 0.0f;
}
__device__ __forceinline__ void load4(const bf16* p, int count, bool wide, float (&v)[4]) {
    if (wide && count >= 4) {
        const uint2 all = *reinterpret_cast<const uint2*>(p);
        v[0] = low_of(all.x), v[1] = high_of(all.x), v[2] = low_of(all.y), v[3] = high_of(all.y);
        return;
    }
    for (int i = 0; i < 4; ++i) v[i] = i < count ? to_float(p[i]) : 0.0f;
}
__device__ __forceinline__ void store4(float* p, int count, bool wide, const float (&v)[4]) {
    if (wide && count >= 4) {
        *reinterpret_cast<float4*>(p) = float4{v[0], v[1], v[2], v[3]};
        return;
    }
    for (int i = 0; i < 4; ++i) {
        if (i < count) p[i] = v[i];
    }
}
__device__ __forceinline__ void store4(bf16* p, int count, bool wide, const float (&v)[4]) {
    if (wide && count >= 4) {
        *reinterpret_cast<uint2*>(p) = uint2{pair(v[0], v[1]), pair(v[2], v[3])};
        return;
    }
    for (int i = 0; i < 4; ++i) {
        if (i < count) assign(p[i], v[i]);
    }
}

// Fragments of multiply() from shared memory; `stride` is the elements between stored rows, whose
// bytes are a multiple of 16. Lane l of a warp.

/// a[16, 16] stored by its rows.
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], const bf16* tile, int stride,
                                       int lane) {
    load_matrices(a, tile + (lane % 16) * stride + lane / 16 * 8);
}
/// a[16, 16] stored by its columns.
__device__ __forceinline__ void load_a_columns(std::uint32_t (&a)[4], const bf16* tile, int stride,
                                               int lane) {
    load_matrices_transposed(a, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}
/// b[16, 16] stored by its columns: two operands of 8 columns, b[0..1] and b[2..3].
__device__ __forceinline__ void load_b_columns(std::uint32_t (&b)[4], const bf16* tile, int stride,
                                               int lane) {
    load_matrices(b, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}
/// The same stored by its rows.
__device__ __forceinline__ void load_b(std::uint32_t (&b)[4], const bf16* tile, int stride,
                                       int lane) {
    load_matrices_transposed(b, tile + (lane % 8 + lane / 8 % 2 * 8) * stride + lane / 16 * 8);
}

}  // namespace qshard::cuda
