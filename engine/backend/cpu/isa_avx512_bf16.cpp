#include "backend/cpu/gemm_pairs.h"
#include "backend/cpu/kernel_table.h"

namespace qshard::cpu {
namespace {

struct Vdpbf16ps {
    QSHARD_INLINE static Vf dot(Vf sum, Vu a, Vu b) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
};

constexpr Kernels make_table() {
    Kernels k = kernel_table("avx512_bf16");
    k.bf16 = dot_gemm<Vdpbf16ps>();
    k.bf16_attention = true;
    return k;
}

}  // namespace

const Kernels& avx512_bf16_kernels() {
    static constexpr Kernels table = make_table();
    return table;
}

}  // namespace qshard::cpu
