#pragma once

#include <string_view>

namespace qshard {

/// Whether the kernel set's products, row sums and attention agree with plain loops on small odd
/// shapes, on this very processor. A few milliseconds; the program asks before it takes a kernel
/// set by itself.
bool kernels_agree(std::string_view isa);

}  // namespace qshard
