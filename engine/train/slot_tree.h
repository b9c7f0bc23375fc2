#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "place/device_group.h"
#include "spec/adapter.h"
#include "tensor/arena.h"

/// The one gradient reduction of a step. Slots are summed along a fixed binary tree over slots,
/// never over ranks, so the sum's bits do not depend on who computed which slot: slot i is leaf i
/// of a tree of the next power of two leaves, a node is left + right, or left alone where no slot
/// lies to the right. A rank sums the whole subtrees inside its slots; only their roots travel:
/// every rank sends each owner its piece of each root, the owner adds in tree order in fp32, and
/// the pieces are all-gathered.
namespace qshard {

struct SlotRange {
    std::int64_t begin = 0, end = 0;
    std::int64_t count() const { return end - begin; }
};

/// Slots of a rank: contiguous and even.
SlotRange slots_of(int rank, int world, std::int64_t slot_count);

/// A node of the tree: leaves [begin, begin + leaves), begin a multiple of leaves, leaves a power
/// of two.
struct TreeNode {
    std::int64_t begin = 0, leaves = 1;
};

/// Largest subtrees whose slots all lie in `range`, ascending.
std::vector<TreeNode> subtree_roots(SlotRange range, std::int64_t slot_count);

class SlotTree {
  public:
    /// Reserves memory for steps of up to max_slots slots over `world` ranks.
    SlotTree(Backend& backend, const AdapterLayout& layout, int rank, int world,
             std::int64_t max_slots, Arena& arena);

    void begin(std::int64_t slot_count);
    /// Adds a slot's gradient of one range of the layout. For each range the slots of this rank
    /// come in ascending order.
    void add(std::int64_t slot, std::size_t range, const float* gradient);
    /// The sum over all slots, fp32 [count]. Collective; two operations (an exchange and an
    /// all-gather) if W > 1.
    Tensor reduce(Communicator& group);

    /// Bytes that reduce() brings to this rank from others in a step of `slot_count` slots.
    std::uint64_t bytes_received(std::int64_t slot_count) const;

    /// Buffers of a rank: roots, and partial sums inside the root being built.
    static std::int64_t max_roots(int rank, int world, std::int64_t max_slots);

  private:
    float* level(std::size_t index) const;
    float* root(std::size_t index) const;
    Tensor part(float* base, std::size_t range) const;
    std::size_t combine(TreeNode node, const std::vector<TreeNode>& all_roots) const;
    float* received(std::size_t index) const;

    Backend& backend_;
    const AdapterLayout& layout_;
    const int rank_, world_;
    std::int64_t piece_ = 0;   ///< elements of one rank's piece
    std::int64_t padded_ = 0;  ///< W * piece_
    Arena& arena_;
    Arena::Handle roots_ = 0, levels_ = 0, received_ = 0, sum_ = 0;
    std::vector<std::byte> staging_;  ///< of a group that cannot read the backend's memory
    std::int64_t slot_count_ = 0;
    SlotRange mine_;
    std::vector<TreeNode> my_roots_;
};

}  // namespace qshard
