#include "place/frozen_base.h"

#include <algorithm>

#include "base/hash.h"
#include "place/device_group.h"

namespace qshard {

FrozenBase::FrozenBase(Backend& backend, Communicator& group, const ModelLayout& layout,
                       bool gathered, Arena& arena)
    : backend_(backend),
      group_(group),
      layout_(layout),
      gathered_(gathered),
      staged_(gathered && needs_staging(backend, group)),
      arena_(arena) {
    const int world = group.count();
    for (const UnitLayout& unit : layout.units) {
        const std::size_t shards = gathered ? 1 : static_cast<std::size_t>(world);
        units_.push_back(
            arena.reserve("base " + unit.name, staged_ ? 0 : unit.shard_bytes(world) * shards));
    }
    if (gathered)
        buffer_ = arena.reserve("gather buffer", GatheredSource::buffer_bytes(layout, world));
}

std::byte* FrozenBase::place(std::size_t unit) const {
    return arena_.at(units_[unit]);
}

std::span<std::byte> FrozenBase::shard(std::size_t unit) const {
    const std::size_t bytes = layout_.units[unit].shard_bytes(group_.count());
    if (staged_) return {const_cast<std::byte*>(host_shards_[unit].data()), bytes};
    const std::size_t at = gathered_ ? 0 : bytes * static_cast<std::size_t>(group_.rank());
    return {place(unit) + at, bytes};
}

std::size_t FrozenBase::resident_bytes() const {
    std::size_t bytes = 0;
    for (Arena::Handle handle : units_) bytes += arena_.bytes(handle);
    for (const auto& host : host_shards_) bytes += host.size();
    return bytes;
}

void FrozenBase::load(const WeightReader& reader, const LayoutOptions& options, int threads,
                      const ImportProgress& progress) {
    const int world = group_.count();
    if (staged_) {
        for (const UnitLayout& unit : layout_.units)
            host_shards_.emplace_back(unit.shard_bytes(world));
        host_buffer_.resize(GatheredSource::buffer_bytes(layout_, world));
    }
    std::int64_t total = 0, done = 0;
    for (const UnitLayout& unit : layout_.units) {
        for (const Field& field : unit.fields) total += field.weight.count() / world;
    }
    std::vector<std::byte> host, gathering;
    DeviceGroup device_group(backend_, group_, gathering);
    for (std::size_t u = 0; u < layout_.units.size(); ++u) {
        const std::span<std::byte> mine = shard(u);
        const bool direct = staged_ || backend_.host_accessible();
        if (!direct) host.resize(mine.size());
        const std::span<std::byte> target = direct ? mine : std::span(host);
        done += import_unit(reader, layout_.units[u], options, group_, threads, target);
        if (!direct) backend_.upload(mine.data(), host.data(), host.size());
        if (!gathered_ && world > 1) {
            backend_.synchronize();
            device_group.all_gather(mine, {place(u), arena_.bytes(units_[u])});
        }
        if (progress) progress(std::min(done, total), total);
    }
    std::vector<const std::byte*> units;
    std::vector<std::span<const std::byte>> shards;
    for (std::size_t u = 0; u < layout_.units.size(); ++u) {
        units.push_back(place(u));
        shards.push_back(shard(u));
    }
    if (!gathered_) {
        source_ = std::make_unique<ResidentSource>(std::move(units));
    } else if (staged_) {
        source_ = std::make_unique<GatheredSource>(layout_, backend_, group_, std::move(shards),
                                                   host_buffer_.data(), arena_.at(buffer_));
    } else {
        source_ = std::make_unique<GatheredSource>(layout_, backend_, group_, std::move(shards),
                                                   arena_.at(buffer_));
    }
}

std::string FrozenBase::fingerprint() {
    PositionSum sum;
    std::uint64_t position = 0;
    std::vector<std::byte> host;
    for (std::size_t u = 0; u < layout_.units.size(); ++u) {
        std::span<const std::byte> mine = shard(u);
        if (!staged_ && !backend_.host_accessible()) {
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
