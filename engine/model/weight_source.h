#pragma once

#include <cstddef>
#include <span>

/// Where the decoder's frozen bytes come from; the decoder asks, and knows nothing of ranks or
/// transports.
namespace qshard {

class WeightSource {
  public:
    virtual ~WeightSource() = default;
    /// Announces the order in which units will be acquired until the next call, so that they can be
    /// fetched ahead. Collective among the ranks that share the base: every rank announces and
    /// acquires the same list.
    virtual void expect(std::span<const std::size_t> units) = 0;
    /// The unit's bytes, readable by the backend until release(). At most one unit is held at a
    /// time.
    virtual const std::byte* acquire(std::size_t unit) = 0;
    virtual void release(std::size_t unit) = 0;
};

}  // namespace qshard
