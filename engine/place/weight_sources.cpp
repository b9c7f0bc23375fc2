#include "place/weight_sources.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"

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

void GatheredSource::fetch() {
    if (next_ == order_.size()) return;
    const std::span<const std::byte> mine = shards_[order_[next_]];
    request_ =
        group_.all_gather(mine, {buffer_, mine.size() * static_cast<std::size_t>(group_.count())});
    in_flight_ = true;
}

const std::byte* GatheredSource::acquire(std::size_t unit) {
    check(next_ < order_.size() && order_[next_] == unit,
          "units are acquired in the order announced");
    const auto begin = std::chrono::steady_clock::now();
    request_.wait();
    wait_seconds_ +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    in_flight_ = false;
    if (device_ == nullptr) return buffer_;
    backend_.upload(device_, buffer_, layout_.units[unit].bytes);
    return device_;
}

void GatheredSource::release(std::size_t unit) {
    check(next_ < order_.size() && order_[next_] == unit, "the unit released is the one held");
    ++next_;
    // The next gather overwrites what the backend may still be reading.
    if (device_ == nullptr) backend_.synchronize();
    fetch();
}

double GatheredSource::take_wait_seconds() {
    return std::exchange(wait_seconds_, 0.0);
}

}  // namespace qshard
