#include "backend/cpu/kernel_table.h"

namespace qshard::cpu {

const Kernels& sse_kernels() {
    static constexpr Kernels table = kernel_table("sse");
    return table;
}

}  // namespace qshard::cpu
