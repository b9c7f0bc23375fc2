#include "place/weight_sources.h"

#include <algorithm>

#include "base/error.h"
#include "tensor/arena.h"

namespace qshard {

std::size_t GatheredSource::buffer_bytes(const ModelLayout& layout, int world) {
    std::size_t largest = 0;
    for (const UnitLayout& unit : layout.units) {
        largest = std::max(largest, unit.shard_bytes(world) * static_cast<std::size_t>(world));
    }
    return largest;
}

void GatheredSource::expect(std::span<const std::size_t> units) {
    check(!in_flight_, "the units announced before have all been used");
    order_.assign(units.begin(), units.end());
    next_ = 0;
    fetch();
}

/// The gather overwrites what the backend may still be reading: it waits for that, not the caller.
void GatheredSource::fetch() {
    if (next_ == order_.size()) return;
    const std::span<const std::byte> mine = shards_[order_[next_]];
    request_ =
        group_.all_gather(mine, {buffer_, mine.size() * static_cast<std::size_t>(group_.count())},
                          device_ == nullptr ? backend_.pending() : nullptr);
    in_flight_ = true;
}

const std::byte* GatheredSource::acquire(std::size_t unit) {
    check(next_ < order_.size() && order_[next_] == unit,
          "units are acquired in the order announced");
    request_.wait();
    in_flight_ = false;
    if (device_ == nullptr) return buffer_;
    backend_.upload(device_, buffer_, layout_.units[unit].bytes);
    return device_;
}

void GatheredSource::release(std::size_t unit) {
    check(next_ < order_.size() && order_[next_] == unit, "the unit released is the one held");
    ++next_;
    fetch();
}

std::size_t StreamedSource::buffer_bytes(const ModelLayout& layout) {
    const auto bytes = [&](std::size_t unit) { return Scratch::aligned(layout.units[unit].bytes); };
    std::size_t before = bytes(layout.embed_unit()), largest = 0;
    for (std::int64_t l = 0; l < layout.layers(); ++l) {
        const std::size_t layer = bytes(layout.layer_unit(l));
        largest = std::max(largest, before + layer);
        before = layer;
    }
    return std::max(largest, before + bytes(layout.head_unit()));
}

std::size_t StreamedSource::placed_bytes(std::size_t position) const {
    return Scratch::aligned(layout_.units[order_[position]].bytes);
}

std::byte* StreamedSource::place(std::size_t position) const {
    return position % 2 == 0 ? buffer_ : buffer_ + buffer_bytes_ - placed_bytes(position);
}

void StreamedSource::expect(std::span<const std::size_t> units) {
    check(next_ == order_.size(), "the units announced before have all been used");
    order_.assign(units.begin(), units.end());
    next_ = started_ = 0;
    start_uploads();
}

/// Of the unit used next, and of the one after it if there is room.
void StreamedSource::start_uploads() {
    for (; started_ < std::min(next_ + 2, order_.size()); ++started_) {
        if (started_ > next_ && placed_bytes(next_) + placed_bytes(started_) > buffer_bytes_)
            return;
        const std::size_t unit = order_[started_];
        backend_.start_upload(place(started_), units_[unit], layout_.units[unit].bytes);
        bytes_ += layout_.units[unit].bytes;
    }
}

const std::byte* StreamedSource::acquire(std::size_t unit) {
    check(next_ < order_.size() && order_[next_] == unit,
          "units are acquired in the order announced");
    backend_.finish_upload();
    return place(next_);
}

void StreamedSource::release(std::size_t unit) {
    check(next_ < order_.size() && order_[next_] == unit, "the unit released is the one held");
    ++next_;
    start_uploads();
}

}  // namespace qshard
