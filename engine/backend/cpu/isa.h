#pragma once

#include <string_view>

#include "backend/cpu/kernels.h"

namespace qshard::cpu {

/// The kernel set of that name, "auto" being the best; UserError(kUnavailable) if this processor
/// lacks it.
const Kernels& kernels_for(std::string_view isa);

}  // namespace qshard::cpu
