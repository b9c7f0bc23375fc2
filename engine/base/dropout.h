#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/philox.h"

namespace qshard {

/// Which elements of one tensor a dropout keeps, as a function of what the tensor is in the run and
/// of nothing else: the same on every rank, and when a layer is computed again.
struct DropoutMask {
    std::uint64_t seed = 0;
    std::uint32_t step = 0, slot = 0, target = 0;  ///< slot of the step; adapted module
    std::uint32_t dropped = 0;                     ///< of 65,536 elements, on average

    /// The rate is rounded to a multiple of 2^-16.
    static std::uint32_t dropped_at(double rate) {
        return static_cast<std::uint32_t>(std::lround(rate * 65536.0));
    }
    /// What kept elements are multiplied by: the mean stays.
    float scale() const { return 65536.0f / static_cast<float>(65536u - dropped); }

    /// Calls visit(i, kept) for elements first .. first + count - 1.
    template <class Visit>
    void each(std::int64_t first, std::int64_t count, Visit&& visit) const {
        const std::int64_t end = first + count;
        for (std::int64_t i = first; i < end;) {
            const PhiloxBlock block = block_of(i);
            for (const std::int64_t stop = std::min(end, (i | 7) + 1); i < stop; ++i)
                visit(i, keeps(block, static_cast<std::uint32_t>(i & 7)));
        }
    }

    /// Eight elements share a block of the stream, 16 bits each: that of element i, which is
    /// lane i % 8 of it. A tensor has at most 2^35 elements.
    constexpr PhiloxBlock block_of(std::int64_t i) const {
        const Philox random(seed, Purpose::kDropout, target, slot);
        return random.block(std::uint64_t{step} << 32 | static_cast<std::uint64_t>(i >> 3));
    }
    constexpr bool keeps(const PhiloxBlock& block, std::uint32_t lane) const {
        return (block[lane >> 1] >> (lane % 2 * 16) & 0xFFFFu) >= dropped;
    }
};

}  // namespace qshard
