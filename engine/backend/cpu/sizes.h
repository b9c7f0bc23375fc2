#pragma once

#include <cstdint>

/// Sizes of the CPU backend's blocks and buffers. None of them changes a result.
namespace qshard::cpu {

constexpr std::int64_t kTileRows = 96;     ///< rows of a task's output block
constexpr std::int64_t kTileCols = 256;    ///< and its columns, at most
constexpr std::int64_t kInnerBlock = 384;  ///< a panel of it and a strip fill half of L1
constexpr std::int64_t kInnerShort = 64;   ///< goes along with what is read before it
constexpr std::int64_t kTileBytes = kTileRows * kTileCols * 4;
constexpr std::int64_t kRowsInner = 256;                     ///< gemm_rows: rows at a time
constexpr std::int64_t kExpandCols = 512;                    ///< pack: elements of a row at a time
constexpr std::int64_t kExpandRows = 32;                     ///< and rows, backward
constexpr std::int64_t kPackBytes = std::int64_t{8} << 20;   ///< packed activations
constexpr std::int64_t kRangeBytes = std::int64_t{1} << 20;  ///< of them, of a range
constexpr std::int64_t kRangeLeast = 4 * kInnerBlock;        ///< of the inner dimension, at least
constexpr std::int64_t kScratchBytes = std::int64_t{1} << 20;  ///< a thread's, at least
constexpr std::int64_t kInlineBytes = 64 << 10;  ///< less is packed by the caller alone
constexpr std::int64_t kBatchRows = 1024;  ///< expanding is 5 % of them, with more caches overflow
constexpr std::int64_t kFixedRows = 100;   ///< measured with AVX-512-BF16; AMX has more
constexpr std::int64_t kElementGrain = 1 << 15;  ///< elements of a task, elementwise
constexpr std::int64_t kColumnGrain = 64;        ///< columns of a task, row after row

static_assert(kTileBytes + kTileRows * kRowsInner * 4 + 32 * kRowsInner * 4 <= kScratchBytes);
static_assert(kExpandRows * kExpandCols * 4 <= kScratchBytes);

}  // namespace qshard::cpu
