#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

/// The CUDA backend's own memory, what it asks of the head and what weights take when they are
/// packed, for it and for plans without a GPU. Of results only sums over many rows hang on sizes:
/// gradients of weights on kOperandBytes in slots of tens of thousands of tokens, the gradient of a
/// trained head on kLogitsBytes.
namespace qshard::cuda {

constexpr std::size_t kMapBytes = 1024;
constexpr std::size_t kLibraryBytes = std::size_t{32} << 20;
constexpr std::size_t kOperandBytes = std::size_t{256} << 20;
constexpr std::size_t kResultBytes = std::size_t{64} << 20;
constexpr std::size_t kWorkspaceBytes = kMapBytes + kLibraryBytes + kOperandBytes + kResultBytes;

/// Between host and device (staging.h): pieces of bulk, and lists: positions of up to 16,384
/// tokens, three lists of each of some forty slots.
constexpr std::size_t kPieceBytes = std::size_t{512} << 10, kPieces = 32;
constexpr std::size_t kListBytes = std::size_t{64} << 10, kLists = 256;

constexpr std::size_t kOwnBytes = kWorkspaceBytes + kPieceBytes * kPieces + kListBytes * kLists;

/// For 128,256 tokens 1,024 rows at a time: the product backward, whose result is only as wide as
/// the model, has two tiles of 128 x 128 then for each multiprocessor of an H100.
constexpr std::size_t kLogitsBytes = std::size_t{512} << 20;
constexpr std::int64_t kTileRows = 128;
/// Lists of as many rows fit a piece of the staging.
constexpr std::int64_t kBatchRows = kListBytes / sizeof(std::int32_t);
/// Of an H100, by its bandwidths: expanding a weight is 336 rows of its product, the launches of an
/// 8B layer 320.
constexpr std::int64_t kFixedRows = 336 + 320;

/// Inner dimensions of packed weights and laid-out operands are filled up with zeros to multiples
/// of 16 bytes, which every algorithm of cuBLASLt wants of at least the operands' rows.
constexpr std::int64_t filled(std::int64_t inner, bool is_bf16) {
    const std::int64_t unit = is_bf16 ? 8 : 4;
    return (inner + unit - 1) / unit * unit;
}

/// Most rows of one product by the library: its operands have room side by side, and no matrix has
/// 2^31 elements.
constexpr std::int64_t library_rows(std::int64_t inner, std::int64_t outer, bool is_bf16) {
    const std::int64_t room =
        static_cast<std::int64_t>(kOperandBytes) / (inner * (is_bf16 ? 2 : 4));
    const std::int64_t elements = (std::int64_t{1} << 31) - 1;
    return std::min(room, elements / std::max(inner, outer));
}

/// Backend::packed_bytes().
inline std::size_t packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                                DType dtype) {
    const bool forward = orientation == Orientation::kForward;
    const std::int64_t inner = filled(forward ? cols : rows, dtype == DType::kBF16);
    return static_cast<std::size_t>(inner * (forward ? rows : cols)) * bytes_of(dtype);
}

/// Whether one expansion [rows, cols] of a weight serves both directions: forward reads it
/// transposed, and nothing fills up its inner dimension there.
constexpr bool serves_both(std::int64_t cols, DType dtype) {
    return filled(cols, dtype == DType::kBF16) == cols;
}

}  // namespace qshard::cuda
