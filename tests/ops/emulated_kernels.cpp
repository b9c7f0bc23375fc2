#define QSHARD_LANES 16
#include "emulated_kernels.h"

#include "backend/cpu/gemm_pairs.h"
#include "backend/cpu/kernel_table.h"

namespace qshard::cpu {
namespace {

float low_half(std::uint32_t word) {
    return to_float(bf16{static_cast<std::uint16_t>(word)});
}
float high_half(std::uint32_t word) {
    return to_float(bf16{static_cast<std::uint16_t>(word >> 16)});
}

/// vdpbf16ps: per lane, the odd products first, then the even ones.
struct EmulatedDot {
    static Vf dot(Vf sum, Vu a, Vu b) {
        for (int i = 0; i < kLanes; ++i) {
            sum[i] += high_half(a[i]) * high_half(b[i]);
            sum[i] += low_half(a[i]) * low_half(b[i]);
        }
        return sum;
    }
};

/// Eight tile registers of 16 rows by 64 bytes. tdpbf16ps: c[m][n] += sum over p of the pair
/// products a[m][p] . b[p][n].
struct EmulatedAmx {
    static thread_local std::uint32_t tile[8][16][16];

    static void configure() {}
    template <int kTile>
    static void zero() {
        __builtin_memset(tile[kTile], 0, sizeof tile[kTile]);
    }
    template <int kTile>
    static void load(const void* from, std::int64_t stride) {
        for (int r = 0; r < 16; ++r) {
            __builtin_memcpy(tile[kTile][r], static_cast<const char*>(from) + r * stride, 64);
        }
    }
    template <int kTile>
    static void store(void* to, std::int64_t stride) {
        for (int r = 0; r < 16; ++r) {
            __builtin_memcpy(static_cast<char*>(to) + r * stride, tile[kTile][r], 64);
        }
    }
    template <int kC, int kA, int kB>
    static void multiply() {
        for (int m = 0; m < 16; ++m) {
            for (int n = 0; n < 16; ++n) {
                float sum = std::bit_cast<float>(tile[kC][m][n]);
                for (int p = 0; p < 16; ++p) {
                    const std::uint32_t a = tile[kA][m][p], b = tile[kB][p][n];
                    sum += low_half(a) * low_half(b);
                    sum += high_half(a) * high_half(b);
                }
                tile[kC][m][n] = std::bit_cast<std::uint32_t>(sum);
            }
        }
    }
};
thread_local std::uint32_t EmulatedAmx::tile[8][16][16];

constexpr Kernels make_table(const char* name, GemmKernel bf16_kernel) {
    Kernels k = kernel_table(name);
    k.bf16 = bf16_kernel;
    k.bf16_attention = true;
    return k;
}

}  // namespace

const Kernels& emulated_avx512_kernels() {
    static constexpr Kernels table = kernel_table("emulated_avx512");
    return table;
}
const Kernels& emulated_avx512_bf16_kernels() {
    static constexpr Kernels table = make_table("emulated_avx512_bf16", dot_gemm<EmulatedDot>());
    return table;
}
const Kernels& emulated_amx_bf16_kernels() {
    static constexpr Kernels table = make_table("emulated_amx_bf16", amx_gemm<EmulatedAmx>());
    return table;
}

}  // namespace qshard::cpu
