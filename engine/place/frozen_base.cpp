#include "place/frozen_base.h"

#include <algorithm>

#include "base/hash.h"
#include "comm/agree.h"
#include "place/device_group.h"

namespace qshard {

const char* name_of(PlacementMode mode) {
    return word_of(kPlacementWords, mode);
}

FrozenBase::FrozenBase(Backend& backend, Communicator& group, const ModelLayout& layout,
                       PlacementMode placement, Arena& arena)
    : backend_(backend),
      group_(group),
      layout_(layout),
      gathered_(placement == PlacementMode::kGathered),
      on_host_(placement == PlacementMode::kHostStreamed ||
               (gathered_ && needs_staging(backend, group))),
      arena_(arena),
      host_(backend) {
    const int world = group.count();
    Arena& memory = on_host_ ? static_cast<Arena&>(host_) : arena;
    for (const UnitLayout& unit : layout.units) {
        const std::size_t shards = gathered_ ? 1 : static_cast<std::size_t>(world);
        units_.push_back(memory.reserve("base " + unit.name, unit.shard_bytes(world) * shards));
    }
    if (gathered_) {
        const std::size_t bytes = GatheredSource::buffer_bytes(layout, world);
        buffer_ = arena.reserve("gather buffer", bytes);
        if (on_host_) host_buffer_ = host_.reserve("gather buffer", bytes);
    } else if (on_host_) {
        buffer_ = arena.reserve("buffers of uploads", StreamedSource::buffer_bytes(layout));
    }
}

std::byte* FrozenBase::place(std::size_t unit) const {
    return on_host_ ? host_.at(units_[unit]) : arena_.at(units_[unit]);
}

std::span<std::byte> FrozenBase::shard(std::size_t unit) const {
    const std::size_t bytes = layout_.units[unit].shard_bytes(group_.count());
    const std::size_t at = gathered_ ? 0 : bytes * static_cast<std::size_t>(group_.rank());
    return {place(unit) + at, bytes};
}

std::size_t FrozenBase::resident_bytes() const {
    std::size_t bytes = 0;
    for (std::size_t u = 0; u < units_.size(); ++u)
        bytes += on_host_ ? host_.bytes(units_[u]) : arena_.bytes(units_[u]);
    return bytes;
}

void FrozenBase::load(const WeightReader& reader, const LayoutOptions& options, int threads,
                      const ImportProgress& progress) {
    const int world = group_.count();
    const bool direct = on_host_ || backend_.host_accessible();
    std::vector<std::byte> host, gathering;
    agree(group_, "taking memory for the base", [&] {
        host_.commit();
        const auto ranks = static_cast<std::size_t>(world);
        if (!direct) host.reserve(GatheredSource::buffer_bytes(layout_, world) / ranks);
    });
    std::int64_t total = 0, done = 0;
    for (const UnitLayout& unit : layout_.units) {
        for (const Field& field : unit.fields) total += field.weight.count() / world;
    }
    DeviceGroup device_group(backend_, group_, gathering);
    for (std::size_t u = 0; u < layout_.units.size(); ++u) {
        const std::span<std::byte> mine = shard(u);
        const std::span<std::byte> all(place(u), mine.size() * static_cast<std::size_t>(world));
        if (!direct) host.resize(mine.size());
        const std::span<std::byte> target = direct ? mine : std::span(host);
        done += import_unit(reader, layout_.units[u], options, group_, threads, target);
        if (!direct) backend_.upload(mine.data(), host.data(), host.size());
        if (!gathered_ && world > 1 && on_host_) {
            group_.all_gather(mine, all).wait();
        } else if (!gathered_ && world > 1) {
            backend_.synchronize();
            device_group.all_gather(mine, all);
        }
        if (progress) progress(std::min(done, total), total);
    }
    host_.pin();
    backend_.synchronize();  // a gather reads the shards on a way of its own
    make_source();
}

void FrozenBase::make_source() {
    std::vector<const std::byte*> units;
    std::vector<std::span<const std::byte>> shards;
    for (std::size_t u = 0; u < layout_.units.size(); ++u) {
        units.push_back(place(u));
        shards.push_back(shard(u));
    }
    if (gathered_ && on_host_) {
        source_ = std::make_unique<GatheredSource>(layout_, backend_, group_, std::move(shards),
                                                   host_.at(host_buffer_), arena_.at(buffer_));
    } else if (gathered_) {
        source_ = std::make_unique<GatheredSource>(layout_, backend_, group_, std::move(shards),
                                                   arena_.at(buffer_));
    } else if (on_host_) {
        auto streamed = std::make_unique<StreamedSource>(layout_, backend_, std::move(units),
                                                         arena_.at(buffer_));
        streamed_ = streamed.get();
        source_ = std::move(streamed);
    } else {
        source_ = std::make_unique<ResidentSource>(std::move(units));
    }
}

std::string FrozenBase::fingerprint() {
    PositionSum sum;
    std::uint64_t position = 0;
    std::vector<std::byte> host;
    for (std::size_t u = 0; u < layout_.units.size(); ++u) {
        std::span<const std::byte> mine = shard(u);
        if (!on_host_ && !backend_.host_accessible()) {
            host.resize(mine.size());
            backend_.download(host.data(), mine.data(), mine.size());
            mine = host;
        }
        // Positions count real bytes of the units, so that padding (zeros past the end) never
        // enters.
        const std::size_t begin = mine.size() * static_cast<std::size_t>(group_.rank());
        const std::size_t end = std::min(begin + mine.size(), layout_.units[u].bytes);
        if (begin < end) sum.add(mine.first(end - begin), position + begin);
        position += layout_.units[u].bytes;
    }
    PositionSum total;
    for (const PositionSum& part : group_.all_gather_value(sum)) total += part;
    return total.hex();
}

}  // namespace qshard
