#pragma once

#include <memory>
#include <string>
#include <vector>

#include "place/import.h"
#include "place/weight_sources.h"
#include "tensor/arena.h"

namespace qshard {

/// A rank's part of the frozen base: its memory, how it is filled, and the source that the decoder
/// reads it from. Where neither the host nor the group can touch the backend's memory, a gathered
/// base stays in the host's and is uploaded unit by unit.
class FrozenBase {
  public:
    /// Reserves memory in `arena` (allocated later). `gathered`: every rank keeps 1/W of each unit,
    /// else whole units.
    FrozenBase(Backend& backend, Communicator& group, const ModelLayout& layout, bool gathered,
               Arena& arena);

    /// Imports the base; once, after the arena is allocated. Collective.
    void load(const WeightReader& reader, const LayoutOptions& options, int threads,
              const ImportProgress& progress);
    WeightSource& source() { return *source_; }
    /// Bytes of the base that stay on this rank.
    std::size_t resident_bytes() const;
    /// 128 bits over the whole imported base, the same for every number of ranks and placement: a
    /// sum of mixed words by position, so that shards add up. Finds accidents, not attacks.
    /// Collective.
    std::string fingerprint();

  private:
    std::byte* place(std::size_t unit) const;
    /// This rank's shard, in the backend's memory or (staged) the host's.
    std::span<std::byte> shard(std::size_t unit) const;

    Backend& backend_;
    Communicator& group_;
    const ModelLayout& layout_;
    const bool gathered_, staged_;  ///< staged: gathered, and the shards lie in host memory
    Arena& arena_;
    std::vector<Arena::Handle> units_;  ///< whole padded units, or shards
    Arena::Handle buffer_ = 0;
    std::vector<std::vector<std::byte>> host_shards_;
    std::vector<std::byte> host_buffer_;
    std::unique_ptr<WeightSource> source_;
};

}  // namespace qshard
