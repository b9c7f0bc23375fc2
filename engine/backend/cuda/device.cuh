#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

/// What kernels are written with: elements, sums of a warp or block in a fixed order, asynchronous
/// copies and matrix fragments. tests/gpu/emulated has the same names for a CPU, so that kernels
/// are tested without a GPU.
namespace qshard::cuda {

using bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}
__device__ __forceinline__ void assign(float& to, float x) {
    to = x;
}
/// Rounds to nearest even.
__device__ __forceinline__ void assign(bf16& to, float x) {
    to = __float2bfloat16_rn(x);
}
/// Two values rounded to bf16, the first in the low half.
__device__ __forceinline__ std::uint32_t pair(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&both);
}
__device__ __forceinline__ float low_of(std::uint32_t both) {
    return __uint_as_float(both << 16);
}
__device__ __forceinline__ float high_of(std::uint32_t both) {
    return __uint_as_float(both & 0xffff0000u);
}

__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char bytes[];
    return bytes;
}

/// Sixteen bytes to shared memory in the background, zeros if not `valid`.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from),
                 "r"(bytes));
#else
    *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
#endif
}
__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\n");
#endif
}
/// Waits until at most kPending of the groups this thread committed are still on their way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
#endif
}

/// Four 8 x 8 matrices of bf16 from shared memory: lane l gives the address of row l % 8 of matrix
/// l / 8 and gets elements (l / 4, 2 (l % 4)) and the one beside it of each. Transposed: of each
/// matrix's transpose.
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const bf16* row) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], const bf16* row) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

/// c[16, 8] += a[16, 16] b[16, 8], bf16 products summed in fp32. (PTX ISA, mma.m16n8k16)
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4],
                                         std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();  // kernels that use it are not launched on such a device
#endif
}

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Args... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    kernel<<<grid, block, shared_bytes, stream>>>(args...);
}

/// Lets a kernel use this much dynamic shared memory; beyond 48 KiB it must be asked for.
template <class Kernel>
void allow_shared(Kernel kernel, std::size_t bytes) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(bytes));
}

}  // namespace qshard::cuda
