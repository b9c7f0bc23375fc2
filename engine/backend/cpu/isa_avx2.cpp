#include "backend/cpu/kernel_table.h"

namespace qshard::cpu {

const Kernels& avx2_kernels() {
    static constexpr Kernels table = kernel_table("avx2");
    return table;
}

}  // namespace qshard::cpu
