#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/weight_source.h"
#include "spec/layout.h"

/// Where the frozen bytes lie: whole on every rank's device, sharded and gathered unit by unit, or
/// whole in every rank's host memory and uploaded unit by unit.
namespace qshard {

/// Every unit is resident.
class ResidentSource final : public WeightSource {
  public:
    explicit ResidentSource(std::vector<const std::byte*> units) : units_(std::move(units)) {}
    void expect(std::span<const std::size_t>) override {}
    const std::byte* acquire(std::size_t unit) override { return units_.at(unit); }
    void release(std::size_t) override {}

  private:
    std::vector<const std::byte*> units_;
};

/// Every rank keeps 1/W of the bytes of every unit. A unit is all-gathered into the one buffer
/// while the decoder computes with what it expanded from the unit before: it holds a unit only as
/// long as it expands it.
class GatheredSource final : public WeightSource {
  public:
    /// shards[u]: this rank's shard; buffer: buffer_bytes(layout, W) bytes, both where the group
    /// can read them. `device`, if given, is the backend's copy of the buffer, to which a unit is
    /// uploaded when it is acquired.
    GatheredSource(const ModelLayout& layout, Backend& backend, Communicator& group,
                   std::vector<std::span<const std::byte>> shards, std::byte* buffer,
                   std::byte* device = nullptr)
        : layout_(layout),
          backend_(backend),
          group_(group),
          shards_(std::move(shards)),
          buffer_(buffer),
          device_(device) {}

    static std::size_t buffer_bytes(const ModelLayout& layout, int world);
    void expect(std::span<const std::size_t> units) override;
    const std::byte* acquire(std::size_t unit) override;
    void release(std::size_t unit) override;

  private:
    void fetch();

    const ModelLayout& layout_;
    Backend& backend_;
    Communicator& group_;
    std::vector<std::span<const std::byte>> shards_;
    std::byte* buffer_;
    std::byte* device_;
    std::vector<std::size_t> order_;
    std::size_t next_ = 0;  ///< position in order_ of the unit in the buffer or on its way
    bool in_flight_ = false;
    Request request_;
};

/// Every unit lies in the host's memory. While the decoder computes with what it expanded from one,
/// the next is on its way: units are placed at the two ends of one buffer in turn. Two that do not
/// fit beside each other, which the decoder's own order has not, follow each other.
class StreamedSource final : public WeightSource {
  public:
    /// units[u]: its bytes on the host; buffer: buffer_bytes(layout) bytes of the backend's.
    StreamedSource(const ModelLayout& layout, Backend& backend, std::vector<const std::byte*> units,
                   std::byte* buffer)
        : layout_(layout),
          backend_(backend),
          units_(std::move(units)),
          buffer_(buffer),
          buffer_bytes_(buffer_bytes(layout)) {}

    static std::size_t buffer_bytes(const ModelLayout& layout);
    void expect(std::span<const std::size_t> units) override;
    const std::byte* acquire(std::size_t unit) override;
    void release(std::size_t unit) override;
    /// Uploaded since the last call.
    std::uint64_t take_bytes() { return std::exchange(bytes_, 0); }

  private:
    std::size_t placed_bytes(std::size_t position) const;
    std::byte* place(std::size_t position) const;
    void start_uploads();

    const ModelLayout& layout_;
    Backend& backend_;
    std::vector<const std::byte*> units_;
    std::byte* buffer_;
    const std::size_t buffer_bytes_;
    std::vector<std::size_t> order_;
    std::size_t next_ = 0;     ///< position in order_ of the unit that is held or acquired next
    std::size_t started_ = 0;  ///< units of order_ whose upload has begun
    std::uint64_t bytes_ = 0;
};

}  // namespace qshard
