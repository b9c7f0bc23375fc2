#pragma once

#include <string>

namespace qshard {

/// Version, commit, compiler, libraries, CPU kernels, CUDA or "without CUDA": what --version
/// prints.
std::string version_text();
/// "0.1.0+abc1234": recorded in checkpoints.
std::string engine_version();

}  // namespace qshard
