#pragma once

#include <cstddef>

/// The CUDA backend's workspace. None of the sizes changes a result.
namespace qshard::cuda {

constexpr std::size_t kMapBytes = 1024;
constexpr std::size_t kLibraryBytes = std::size_t{32} << 20;
constexpr std::size_t kOperandBytes = std::size_t{256} << 20;
constexpr std::size_t kResultBytes = std::size_t{64} << 20;
constexpr std::size_t kWorkspaceBytes = kMapBytes + kLibraryBytes + kOperandBytes + kResultBytes;

}  // namespace qshard::cuda
