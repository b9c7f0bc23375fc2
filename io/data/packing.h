#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/philox.h"

namespace qshard {

/// 0..count-1 in an order that depends on the seed, the purpose and the two numbers only
/// (Fisher-Yates over Philox).
std::vector<std::int64_t> shuffled_order(std::int64_t count, std::uint64_t seed, Purpose purpose,
                                         std::uint32_t a = 0, std::uint32_t b = 0);

/// Lays documents into rows of at most `capacity` tokens: in windows of 1000 documents of the given
/// order, longest first, each into the fullest row in which it fits (best-fit decreasing, as TRL's
/// "bfd"; the earliest of equals). No document is cut; each must fit. Returns the documents of each
/// row.
std::vector<std::vector<std::int64_t>> pack_best_fit(std::span<const std::int64_t> order,
                                                     std::span<const std::int64_t> lengths,
                                                     std::int64_t capacity);

}  // namespace qshard
