#include "backend/cpu/kernel_table.h"

namespace qshard::cpu {

const Kernels& avx512_kernels() {
    static constexpr Kernels table = kernel_table("avx512");
    return table;
}

}  // namespace qshard::cpu
