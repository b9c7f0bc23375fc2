#include "train/slot_tree.h"

#include <algorithm>
#include <bit>

namespace qshard {
namespace {

std::int64_t tree_leaves(std::int64_t slot_count) {
    return static_cast<std::int64_t>(
        std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(slot_count, 1))));
}

void collect(TreeNode node, SlotRange range, std::int64_t slot_count,
             std::vector<TreeNode>& roots) {
    const std::int64_t end = std::min(node.begin + node.leaves, slot_count);  // slots that exist
    if (node.begin >= range.end || end <= range.begin || node.begin >= end) return;
    if (node.begin >= range.begin && end <= range.end) {
        roots.push_back(node);
        return;
    }
    collect({node.begin, node.leaves / 2}, range, slot_count, roots);
    collect({node.begin + node.leaves / 2, node.leaves / 2}, range, slot_count, roots);
}

std::size_t max_levels(std::int64_t max_slots) {
    return static_cast<std::size_t>(
        std::countr_zero(static_cast<std::uint64_t>(tree_leaves(max_slots))));
}

}  // namespace

SlotRange slots_of(int rank, int world, std::int64_t slot_count) {
    return {slot_count * rank / world, slot_count * (rank + 1) / world};
}

std::vector<TreeNode> subtree_roots(SlotRange range, std::int64_t slot_count) {
    std::vector<TreeNode> roots;
    if (range.count() > 0) collect({0, tree_leaves(slot_count)}, range, slot_count, roots);
    return roots;
}

std::int64_t SlotTree::max_roots(int rank, int world, std::int64_t max_slots) {
    std::size_t most = 0;
    for (std::int64_t slots = 1; slots <= max_slots; ++slots) {
        most = std::max(most, subtree_roots(slots_of(rank, world, slots), slots).size());
    }
    return static_cast<std::int64_t>(most);
}

SlotTree::SlotTree(Backend& backend, const AdapterLayout& layout, int rank, int world,
                   std::int64_t max_slots, Arena& arena)
    : backend_(backend), layout_(layout), rank_(rank), world_(world), arena_(arena) {
    piece_ = (layout.count + world - 1) / world;
    piece_ = (piece_ + 15) / 16 * 16;
    padded_ = piece_ * world;
    const std::size_t flat = static_cast<std::size_t>(padded_) * sizeof(float);
    std::int64_t all_roots = 0;
    for (int r = 0; r < world; ++r) all_roots += max_roots(r, world, max_slots);
    // The last level of a root goes straight into the root, so a tree of 2^k leaves has k partial
    // sums.
    const std::int64_t mine = (max_slots + world - 1) / world;
    roots_ = arena.reserve(
        "gradient subtree roots",
        static_cast<std::size_t>(std::max<std::int64_t>(max_roots(rank, world, max_slots), 1)) *
            flat);
    levels_ = arena.reserve("gradient partial sums", max_levels(mine) * flat);
    if (world > 1) {
        received_ = arena.reserve("gradient pieces received",
                                  static_cast<std::size_t>(all_roots * piece_) * sizeof(float));
        sum_ = arena.reserve("gradient sum", flat);
    }
}

void SlotTree::begin(std::int64_t slot_count) {
    slot_count_ = slot_count;
    mine_ = slots_of(rank_, world_, slot_count);
    my_roots_ = subtree_roots(mine_, slot_count);
}

float* SlotTree::level(std::size_t index) const {
    return reinterpret_cast<float*>(arena_.at(levels_)) + index * static_cast<std::size_t>(padded_);
}
float* SlotTree::root(std::size_t index) const {
    return reinterpret_cast<float*>(arena_.at(roots_)) + index * static_cast<std::size_t>(padded_);
}
float* SlotTree::received(std::size_t index) const {
    return reinterpret_cast<float*>(arena_.at(received_)) +
           index * static_cast<std::size_t>(piece_);
}

Tensor SlotTree::part(float* base, std::size_t range) const {
    return {base + layout_.range_begin[range], DType::kF32, {layout_.range_count(range)}};
}

void SlotTree::add(std::int64_t slot, std::size_t range, const float* gradient) {
    std::size_t index = 0;
    while (slot >= my_roots_[index].begin + my_roots_[index].leaves) ++index;
    const TreeNode node = my_roots_[index];
    const std::int64_t leaf = slot - node.begin;
    const bool last = slot + 1 == std::min(node.begin + node.leaves, slot_count_);
    Tensor sum(const_cast<float*>(gradient), DType::kF32, {layout_.range_count(range)});
    // Like carrying in a binary counter: bit k of `leaf` says that a left sibling of 2^k leaves
    // waits at level k. After the last slot everything that waits is merged, which is what a
    // missing right side means.
    std::size_t k = 0;
    for (; last ? (leaf >> k) != 0 : ((leaf >> k) & 1) != 0; ++k) {
        if (((leaf >> k) & 1) == 0) continue;
        const Tensor left = part(level(k), range);
        backend_.add(sum, 1.0f, left);
        sum = left;
    }
    backend_.copy(sum, part(last ? root(index) : level(k), range));
}

std::size_t SlotTree::combine(TreeNode node, const std::vector<TreeNode>& all_roots) const {
    for (std::size_t i = 0; i < all_roots.size(); ++i) {
        if (all_roots[i].begin == node.begin && all_roots[i].leaves == node.leaves) return i;
    }
    const TreeNode left{node.begin, node.leaves / 2},
        right{node.begin + node.leaves / 2, node.leaves / 2};
    const std::size_t sum = combine(left, all_roots);
    if (right.begin >= slot_count_) return sum;
    const std::size_t other = combine(right, all_roots);
    backend_.add(Tensor(received(other), DType::kF32, {piece_}), 1.0f,
                 Tensor(received(sum), DType::kF32, {piece_}));
    return sum;
}

std::uint64_t SlotTree::bytes_received(std::int64_t slot_count) const {
    std::size_t pieces = 0;
    for (int from = 0; from < world_; ++from) {
        if (from != rank_)
            pieces += 1 + subtree_roots(slots_of(from, world_, slot_count), slot_count).size();
    }
    return pieces * static_cast<std::size_t>(piece_) * sizeof(float);
}

Tensor SlotTree::reduce(Communicator& group) {
    if (world_ == 1) return {root(0), DType::kF32, {layout_.count}};
    backend_.synchronize();
    const std::size_t bytes = static_cast<std::size_t>(piece_) * sizeof(float);
    std::vector<SendPiece> sends;
    for (int owner = 0; owner < world_; ++owner) {
        for (std::size_t i = 0; i < my_roots_.size(); ++i) {
            const auto* piece = reinterpret_cast<const std::byte*>(root(i) + owner * piece_);
            sends.push_back({owner, {piece, bytes}});
        }
    }
    std::vector<RecvPiece> receives;
    std::vector<TreeNode> all_roots;
    for (int from = 0; from < world_; ++from) {
        for (const TreeNode& node :
             subtree_roots(slots_of(from, world_, slot_count_), slot_count_)) {
            receives.push_back(
                {from, {reinterpret_cast<std::byte*>(received(all_roots.size())), bytes}});
            all_roots.push_back(node);
        }
    }
    DeviceGroup device_group(backend_, group, staging_);
    device_group.exchange(std::move(sends), std::move(receives));
    const std::size_t result = combine({0, tree_leaves(slot_count_)}, all_roots);
    std::byte* sum = arena_.at(sum_);
    const std::span<std::byte> mine{sum + static_cast<std::size_t>(rank_) * bytes, bytes};
    backend_.copy(Tensor(received(result), DType::kF32, {piece_}),
                  Tensor(mine.data(), DType::kF32, {piece_}));
    backend_.synchronize();
    device_group.all_gather(mine, {sum, bytes * static_cast<std::size_t>(world_)});
    return {sum, DType::kF32, {layout_.count}};
}

}  // namespace qshard
