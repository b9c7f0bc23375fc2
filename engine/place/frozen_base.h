#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/host_arena.h"
#include "place/import.h"
#include "place/weight_sources.h"
#include "spec/words.h"
#include "tensor/arena.h"

namespace qshard {

/// "replicated", "gathered" or "host_streamed".
const char* name_of(PlacementMode mode);

/// A rank's part of the frozen base: its memory, how it is filled, and the source that the decoder
/// reads it from. It stays in the host's memory and is uploaded unit by unit if it is
/// host-streamed, or gathered where neither the host nor the group can touch the backend's memory.
class FrozenBase {
  public:
    /// Reserves memory in `arena` (allocated later). Gathered: every rank keeps 1/W of each unit,
    /// else whole units.
    FrozenBase(Backend& backend, Communicator& group, const ModelLayout& layout,
               PlacementMode placement, Arena& arena);

    /// Takes the host's memory and imports the base; once, after the arena is allocated.
    /// Collective.
    void load(const WeightReader& reader, const LayoutOptions& options, int threads,
              const ImportProgress& progress);
    WeightSource& source() { return *source_; }
    /// Bytes of the base that stay on this rank.
    std::size_t resident_bytes() const;
    /// Host memory that load() takes; none unless the backend's memory is its own.
    std::size_t host_bytes() const { return host_.total_bytes(); }
    /// False after load() if the host refused to lock that memory.
    bool host_pinned() const { return host_.pinned(); }
    /// Bytes of a host-streamed base uploaded since the last call.
    std::uint64_t take_uploaded_bytes() {
        return streamed_ == nullptr ? 0 : streamed_->take_bytes();
    }
    /// 128 bits over the whole imported base, the same for every number of ranks and placement: a
    /// sum of mixed words by position, so that shards add up. Finds accidents, not attacks.
    /// Collective.
    std::string fingerprint();

  private:
    void make_source();
    std::byte* place(std::size_t unit) const;
    /// This rank's shard, in the backend's memory or the host's.
    std::span<std::byte> shard(std::size_t unit) const;

    Backend& backend_;
    Communicator& group_;
    const ModelLayout& layout_;
    const bool gathered_, on_host_;  ///< on_host: the units lie in host memory
    Arena& arena_;
    HostArena host_;
    std::vector<Arena::Handle> units_;  ///< whole padded units, or shards
    Arena::Handle buffer_ = 0;          ///< that units are gathered in or uploaded to
    Arena::Handle host_buffer_ = 0;     ///< gathered, and on the host
    std::unique_ptr<WeightSource> source_;
    StreamedSource* streamed_ = nullptr;  ///< source_, if it is one
};

}  // namespace qshard
