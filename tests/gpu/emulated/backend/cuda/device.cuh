#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "base/dtype.h"
#include "base/error.h"

/// The names of engine/backend/cuda/device.cuh over the emulator; this folder comes before the
/// engine's where kernels are compiled for the CPU.

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (::emulator::position().thread)
#define blockIdx (::emulator::position().block)
#define blockDim (::emulator::block_size())
#define gridDim (::emulator::grid_size())

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace qshard::cuda {

using qshard::bf16;
using qshard::to_float;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline void assign(float& to, float x) {
    to = x;
}
inline void assign(bf16& to, float x) {
    to = to_bf16(x);
}
inline std::uint32_t pair(float low, float high) {
    return to_bf16(low).bits | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}
inline float low_of(std::uint32_t both) {
    return std::bit_cast<float>(both << 16);
}
inline float high_of(std::uint32_t both) {
    return std::bit_cast<float>(both & 0xffff0000u);
}

inline float __uint_as_float(std::uint32_t bits) {
    return std::bit_cast<float>(bits);
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline void __syncthreads() {
    emulator::block_barrier();
}
inline void __syncwarp() {
    emulator::warp_barrier();
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    emulator::exchange(&value, sizeof value);
    return emulator::given<T>(emulator::slots(), lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
    return __shfl_sync(mask, value, emulator::lane() ^ step);
}

inline unsigned char* dynamic_shared() {
    const auto address = reinterpret_cast<std::uintptr_t>(emulator::dynamic_shared());
    return reinterpret_cast<unsigned char*>((address + 127) / 128 * 128);
}

/// Pointers of sixteen bytes must be aligned to them: a GPU ends the kernel where they are not.
inline void require_aligned(const void* pointer) {
    check(reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0, "sixteen bytes are aligned");
}
inline void copy_async(void* to, const void* from, bool valid) {
    require_aligned(to);
    require_aligned(from);
    emulator::copy_later(to, from, valid);
}
inline void copy_async_commit() {
    emulator::commit_copies();
}
template <int kPending>
void copy_async_wait() {
    emulator::finish_copies(kPending);
}

inline void load_matrices(std::uint32_t (&r)[4], const bf16* row) {
    require_aligned(row);
    emulator::exchange(&row, sizeof row);
    const int lane = emulator::lane();
    const auto* rows = emulator::slots();
    for (int m = 0; m < 4; ++m) {
        const auto* of = emulator::given<const bf16*>(rows, 8 * m + lane / 4);
        r[m] = of[2 * (lane % 4)].bits | static_cast<std::uint32_t>(of[2 * (lane % 4) + 1].bits)
                                             << 16;
    }
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], const bf16* row) {
    require_aligned(row);
    emulator::exchange(&row, sizeof row);
    const int lane = emulator::lane();
    const auto* rows = emulator::slots();
    for (int m = 0; m < 4; ++m) {
        const int first = 8 * m + 2 * (lane % 4);
        const auto* even = emulator::given<const bf16*>(rows, first);
        const auto* odd = emulator::given<const bf16*>(rows, first + 1);
        r[m] = even[lane / 4].bits | static_cast<std::uint32_t>(odd[lane / 4].bits) << 16;
    }
}

/// Fragments as the PTX ISA lays them out (mma.m16n8k16, .bf16): lane l has rows l / 4 and l / 4 +
/// 8 of a and c, and column l / 4 of b.
inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                     std::uint32_t b1) {
    struct Fragment {
        std::uint32_t a[4], b[2];
    };
    const Fragment mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
    emulator::exchange(&mine, sizeof mine);
    const auto* all = emulator::slots();
    const int lane = emulator::lane();
    for (int e = 0; e < 4; ++e) {
        const int row = lane / 4, lower = e / 2, col = lane % 4 * 2 + e % 2;
        for (int k = 0; k < 16; k += 2) {
            const std::uint32_t x =
                emulator::given<Fragment>(all, row * 4 + k % 8 / 2).a[lower + k / 8 * 2];
            const std::uint32_t y = emulator::given<Fragment>(all, col * 4 + k % 8 / 2).b[k / 8];
            c[e] += low_of(x) * low_of(y);
            c[e] += high_of(x) * high_of(y);
        }
    }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Args... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    stream->finish();
    emulator::run(grid, block, shared_bytes, [&] { kernel(args...); });
}
template <class Kernel>
void allow_shared(Kernel, std::size_t bytes) {
    // What every device since 8.6 has for one block.
    if (bytes > 99 << 10) std::abort();
}

}  // namespace qshard::cuda
