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

}  // namespace qshard::cuda
