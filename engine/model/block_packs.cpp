#include "model/block_packs.h"

#include "tensor/arena.h"

namespace qshard {
namespace {

std::size_t pair_bytes(const Backend& backend, std::int64_t rows, std::int64_t cols, DType compute,
                       Directions directions) {
    std::size_t bytes = 0;
    if (directions.forward) {
        bytes += Scratch::aligned(backend.packed_bytes(rows, cols, Orientation::kForward, compute));
    }
    if (directions.backward) {
        bytes +=
            Scratch::aligned(backend.packed_bytes(rows, cols, Orientation::kBackward, compute));
    }
    return bytes;
}

/// Packs into consecutive pieces of one destination.
class Packer {
  public:
    Packer(Backend& backend, DType compute, Directions directions, std::byte* destination)
        : backend_(backend), compute_(compute), directions_(directions), next_(destination) {}

    void pack(const WeightView& weight, Packed& forward, Packed& backward) {
        if (directions_.forward) forward = one(weight, Orientation::kForward);
        if (directions_.backward) backward = one(weight, Orientation::kBackward);
    }
    Tensor copy(const Tensor& vector) {
        Tensor out(next_, DType::kF32, {vector.count()});
        backend_.copy(vector, out);
        next_ += Scratch::aligned(out.bytes());
        return out;
    }

  private:
    Packed one(const WeightView& weight, Orientation orientation) {
        const Packed packed = backend_.pack(weight, orientation, compute_, next_);
        next_ += Scratch::aligned(
            backend_.packed_bytes(weight.rows, weight.cols, orientation, compute_));
        return packed;
    }
    Backend& backend_;
    DType compute_;
    Directions directions_;
    std::byte* next_;
};

WeightView factor(const float* values, std::int64_t rows, std::int64_t cols, float scale) {
    WeightView view;
    view.rows = rows;
    view.cols = cols;
    view.plain = Tensor(const_cast<float*>(values), DType::kF32, {rows, cols});
    view.scale = scale;
    return view;
}

}  // namespace

Role bias_role(Role linear) {
    switch (linear) {
        case Role::kQ:
            return Role::kQBias;
        case Role::kK:
            return Role::kKBias;
        case Role::kV:
            return Role::kVBias;
        case Role::kO:
            return Role::kOBias;
        case Role::kUp:
            return Role::kUpBias;
        case Role::kDown:
            return Role::kDownBias;
        default:
            return Role::kCount;
    }
}

std::size_t block_pack_bytes(const Backend& backend, const UnitLayout& unit, std::int64_t layer,
                             const AdapterLayout* adapter, DType compute, Directions directions) {
    std::size_t bytes = 0;
    for (const Field& field : unit.fields) {
        const WeightSpec& weight = field.weight;
        if (!weight.linear) {
            bytes += Scratch::aligned(static_cast<std::size_t>(weight.count()) * sizeof(float));
            continue;
        }
        bytes += pair_bytes(backend, weight.rows, weight.cols, compute, directions);
        const AdapterTarget* target =
            adapter == nullptr ? nullptr : adapter->find(layer, weight.role);
        if (target == nullptr) continue;
        bytes += pair_bytes(backend, target->r, target->in, compute, directions);
        bytes += pair_bytes(backend, target->out, target->r, compute, directions);
    }
    return bytes;
}

BlockPacks prepare_block(Backend& backend, const UnitLayout& unit, const std::byte* bytes,
                         std::int64_t layer, const AdapterLayout* adapter,
                         const float* adapter_values, DType compute, Directions directions,
                         std::byte* destination) {
    BlockPacks packs;
    Packer packer(backend, compute, directions, destination);
    for (const Field& field : unit.fields) {
        const WeightSpec& weight = field.weight;
        const auto role = static_cast<std::size_t>(weight.role);
        if (!weight.linear) {
            packs.vector[role] = packer.copy(view_of(field, bytes).plain);
            continue;
        }
        LinearPack& pack = packs.linear[role];
        packer.pack(view_of(field, bytes), pack.forward, pack.backward);
        pack.target = adapter == nullptr ? nullptr : adapter->find(layer, weight.role);
        if (pack.target == nullptr) continue;
        const AdapterTarget& t = *pack.target;
        packer.pack(factor(adapter_values + t.a, t.r, t.in, 1.0f), pack.a_forward, pack.a_backward);
        packer.pack(factor(adapter_values + t.b, t.out, t.r, t.scale), pack.b_forward,
                    pack.b_backward);
    }
    for (const Role role : {Role::kQ, Role::kK, Role::kV, Role::kO, Role::kUp, Role::kDown}) {
        packs.linear[static_cast<std::size_t>(role)].bias =
            packs.vector[static_cast<std::size_t>(bias_role(role))];
    }
    return packs;
}

}  // namespace qshard
