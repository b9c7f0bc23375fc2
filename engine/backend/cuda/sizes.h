#pragma once

#include <cstddef>

/// The CUDA backend's workspace, and what it asks of the head. Of results only sums over many rows
/// hang on sizes: gradients of weights on kOperandBytes in slots of tens of thousands of tokens,
/// the gradient of a trained head on kLogitsBytes.
namespace qshard::cuda {

constexpr std::size_t kMapBytes = 1024;
constexpr std::size_t kLibraryBytes = std::size_t{32} << 20;
constexpr std::size_t kOperandBytes = std::size_t{256} << 20;
constexpr std::size_t kResultBytes = std::size_t{64} << 20;
constexpr std::size_t kWorkspaceBytes = kMapBytes + kLibraryBytes + kOperandBytes + kResultBytes;

/// For 128,256 tokens 258 rows at a time, on an H100 enough for products to take longer than
/// reading their weights.
constexpr std::size_t kLogitsBytes = std::size_t{128} << 20;

}  // namespace qshard::cuda
