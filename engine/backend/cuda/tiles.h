#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/kernels.h"

/// How calls are cut into launches; host arithmetic only.
namespace qshard::cuda {

/// Tiles of `rows` queries each, the last of a sequence shorter; long ones first within a sequence,
/// because they begin first and so end together.
std::vector<QueryTile> query_tiles(std::span<const AttentionSequence> sequences, int rows);
/// Tiles of `keys` keys each, of whole documents (q_count == k_count).
std::vector<KeyTile> key_tiles(std::span<const AttentionSequence> sequences, int keys);

/// Parts of [0, count) of equal size, as few as possible with at most `most` each (a multiple of
/// `unit`, but for the last).
struct Parts {
    std::int64_t count, each;
    Parts(std::int64_t total, std::int64_t most, std::int64_t unit);
    std::int64_t begin(std::int64_t part) const { return part * each; }
    std::int64_t end(std::int64_t part) const {
        return part + 1 == count ? total_ : (part + 1) * each;
    }

  private:
    std::int64_t total_;
};

/// gemm_rows in passes over its rows: partial sums of each chunk of a pass lie in `bytes`, those of
/// at least kUnit columns of a at a time.
struct RowPasses {
    static constexpr std::int64_t kUnit = 64;
    std::int64_t each;  ///< rows of a pass, a multiple of `chunk`
    RowPasses(std::int64_t bytes, std::int64_t b_cols, std::int64_t chunk);
    /// The columns of a, `m` of them, in parts whose partial sums over `chunks` have room.
    Parts columns(std::int64_t m, std::int64_t chunks) const;

  private:
    std::int64_t bytes_, column_bytes_;
};

/// One launch of gemm_rows: partial sums, and what is made of them.
struct RowsLaunch {
    std::vector<RowChunk> chunks;
    std::vector<RowSum> sums;
    bool accumulate = false;
};
/// Rows begin[s] .. begin[s + 1] give result s. At most `most` rows a launch, a multiple of
/// `chunk`; a result of more rows is added up launch by launch, in the same way whatever the other
/// results.
std::vector<RowsLaunch> rows_launches(std::span<const std::int64_t> begin, std::int64_t most,
                                      std::int64_t chunk);

}  // namespace qshard::cuda
