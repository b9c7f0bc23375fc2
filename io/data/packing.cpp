#include "io/data/packing.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace qshard {

constexpr std::size_t kWindow = 1000;

std::vector<std::int64_t> shuffled_order(std::int64_t count, std::uint64_t seed, Purpose purpose,
                                         std::uint32_t a, std::uint32_t b) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    const Philox random(seed, purpose, a, b);
    for (std::uint64_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[random.below(i, i)]);
    return order;
}

std::vector<std::vector<std::int64_t>> pack_best_fit(std::span<const std::int64_t> order,
                                                     std::span<const std::int64_t> lengths,
                                                     std::int64_t capacity) {
    const auto length = [&](std::int64_t document) {
        return lengths[static_cast<std::size_t>(document)];
    };
    std::vector<std::vector<std::int64_t>> rows;
    for (std::size_t begin = 0; begin < order.size(); begin += kWindow) {
        const auto part = order.subspan(begin, std::min(kWindow, order.size() - begin));
        std::vector<std::int64_t> window(part.begin(), part.end());
        std::stable_sort(window.begin(), window.end(),
                         [&](std::int64_t a, std::int64_t b) { return length(a) > length(b); });
        std::set<std::pair<std::int64_t, std::size_t>> open;  // (room left, row)
        for (const std::int64_t document : window) {
            check(length(document) <= capacity, "a document to pack fits a row");
            const auto best = open.lower_bound({length(document), 0});
            std::size_t row = rows.size();
            std::int64_t room = capacity;
            if (best != open.end()) {
                std::tie(room, row) = *best;
                open.erase(best);
            } else {
                rows.emplace_back();
            }
            rows[row].push_back(document);
            open.emplace(room - length(document), row);
        }
    }
    return rows;
}

}  // namespace qshard
