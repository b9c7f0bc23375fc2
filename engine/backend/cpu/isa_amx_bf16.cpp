#include "backend/cpu/gemm_pairs.h"
#include "backend/cpu/kernel_table.h"

namespace qshard::cpu {
namespace {

/// In assembly, because GCC's intrinsics are macros that take the tile's number as a literal only.
struct Tdpbf16ps {
    /// Once a thread; nothing in this program changes or releases the tile registers' shapes.
    QSHARD_INLINE static void configure() {
        static thread_local bool done = false;
        if (done) return;
        struct alignas(64) {
            std::uint8_t palette, start_row, reserved[14];
            std::uint16_t row_bytes[16];
            std::uint8_t rows[16];
        } shapes = {};
        static_assert(sizeof shapes == 64);
        shapes.palette = 1;
        for (int i = 0; i < 8; ++i) {
            shapes.row_bytes[i] = 64;
            shapes.rows[i] = 16;
        }
        _tile_loadconfig(&shapes);
        done = true;
    }
    template <int kTile>
    QSHARD_INLINE static void zero() {
        asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
    }
    template <int kTile>
    QSHARD_INLINE static void load(const void* from, std::int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                     : "memory");
    }
    template <int kTile>
    QSHARD_INLINE static void store(void* to, std::int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile)
                     : "memory");
    }
    template <int kC, int kA, int kB>
    QSHARD_INLINE static void multiply() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
    }
};

constexpr Kernels make_table() {
    Kernels k = kernel_table("amx_bf16");
    k.bf16 = amx_gemm<Tdpbf16ps>();
    k.bf16_attention = true;
    return k;
}

}  // namespace

const Kernels& amx_bf16_kernels() {
    static constexpr Kernels table = make_table();
    return table;
}

}  // namespace qshard::cpu
