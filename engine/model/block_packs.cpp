#include "model/block_packs.h"

#include <initializer_list>

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

/// Packs into pieces of one destination: weights that are terms of one product lie one after the
/// other, in the order of the terms, so that a backend may take them for one matrix.
class Packer {
  public:
    Packer(Backend& backend, DType compute, Directions directions, std::byte* destination,
           std::size_t forward_bytes, std::size_t bytes)
        : backend_(backend),
          compute_(compute),
          directions_(directions),
          forward_(destination),
          backward_(destination + forward_bytes),
          end_(destination + bytes) {}

    /// W, and A backward: y = ... + x W^T, dx = ... + dy W.
    void pack(const WeightView& weight, Packed& forward, Packed& backward) {
        pack(weight, compute_, forward, backward);
    }
    void pack(const WeightView& weight, DType dtype, Packed& forward, Packed& backward) {
        if (directions_.forward) forward = one(weight, Orientation::kForward, dtype, forward_);
        if (directions_.backward) backward = one(weight, Orientation::kBackward, dtype, backward_);
    }
    /// B, which backward is no term of dx, but makes du by itself: from the end downward.
    void pack_apart(const WeightView& weight, Packed& forward, Packed& backward) {
        if (directions_.forward) forward = one(weight, Orientation::kForward, compute_, forward_);
        if (!directions_.backward) return;
        end_ -= Scratch::aligned(
            backend_.packed_bytes(weight.rows, weight.cols, Orientation::kBackward, compute_));
        backward = backend_.pack(weight, Orientation::kBackward, compute_, end_);
    }
    Tensor copy(const Tensor& vector) {
        Tensor out(forward_, DType::kF32, {vector.count()});
        backend_.copy(vector, out);
        forward_ += Scratch::aligned(out.bytes());
        return out;
    }

  private:
    Packed one(const WeightView& weight, Orientation orientation, DType dtype, std::byte*& next) {
        const Packed packed = backend_.pack(weight, orientation, dtype, next);
        next +=
            Scratch::aligned(backend_.packed_bytes(weight.rows, weight.cols, orientation, dtype));
        return packed;
    }
    Backend& backend_;
    DType compute_;
    Directions directions_;
    std::byte *forward_, *backward_, *end_;
};

Tensor part_of(const float* values, std::initializer_list<std::int64_t> shape) {
    return {const_cast<float*>(values), DType::kF32, shape};
}

WeightView factor(const float* values, std::int64_t rows, std::int64_t cols, float scale) {
    WeightView view;
    view.rows = rows;
    view.cols = cols;
    view.plain = part_of(values, {rows, cols});
    view.scale = scale;
    return view;
}

/// Role of the bias that belongs to a linear.
Role bias_role(Role linear) {
    switch (linear) {
        case Role::kQkv:
            return Role::kQkvBias;
        case Role::kQ:
            return Role::kQBias;
        case Role::kK:
            return Role::kKBias;
        case Role::kV:
            return Role::kVBias;
        case Role::kO:
            return Role::kOBias;
        case Role::kGate:
            return Role::kGateBias;
        case Role::kUp:
            return Role::kUpBias;
        case Role::kDown:
            return Role::kDownBias;
        default:
            return Role::kCount;
    }
}

/// What the decoder computes with: the parts of a fused linear, else the linear itself.
std::vector<WeightPart> parts_of(const WeightSpec& weight) {
    if (!weight.parts.empty()) return weight.parts;
    return {{weight.role, weight.rows}};
}

LinearPack& expert_pack(BlockPacks& packs, const WeightSpec& weight) {
    const auto index = static_cast<std::size_t>(weight.expert);
    if (packs.experts.size() <= index) packs.experts.resize(index + 1);
    ExpertPacks& expert = packs.experts[index];
    return weight.role == Role::kExpertGate ? expert.gate
           : weight.role == Role::kExpertUp ? expert.up
                                            : expert.down;
}

/// Gives the parts of a linear their stretches of its bias.
void set_biases(const WeightSpec& weight, BlockPacks& packs) {
    if (!weight.linear) return;
    const Role role = bias_role(weight.role);
    if (role == Role::kCount || packs.gain(role).empty()) return;
    float* next = packs.gain(role).as<float>();
    for (const WeightPart& part : parts_of(weight)) {
        packs.linear[static_cast<std::size_t>(part.role)].bias =
            Tensor(next, DType::kF32, {part.rows});
        next += part.rows;
    }
}

}  // namespace

std::size_t block_pack_bytes(const Backend& backend, const UnitLayout& unit, std::int64_t layer,
                             const AdapterLayout* adapter, DType compute, Directions directions) {
    std::size_t bytes = 0;
    for (const Field& field : unit.fields) {
        const WeightSpec& weight = field.weight;
        if (weight.role == Role::kRouter) {
            bytes += pair_bytes(backend, weight.rows, weight.cols, DType::kF32, directions);
            continue;
        }
        if (!weight.linear) {
            bytes += Scratch::aligned(static_cast<std::size_t>(weight.count()) * sizeof(float));
            continue;
        }
        const AdapterTarget* target =
            adapter == nullptr ? nullptr : adapter->find(layer, weight.role);
        for (const WeightPart& part : parts_of(weight)) {
            bytes += pair_bytes(backend, part.rows, weight.cols, compute, directions);
            if (target != nullptr)
                bytes += pair_bytes(backend, part.rows, target->r, compute, directions);
        }
        if (target != nullptr)
            bytes += pair_bytes(backend, target->r, target->in, compute, directions);
    }
    return bytes;
}

BlockPacks prepare_block(Backend& backend, const UnitLayout& unit, const std::byte* bytes,
                         std::int64_t layer, const AdapterLayout* adapter,
                         const AdapterValues& values, DType compute, Directions directions,
                         std::byte* destination) {
    BlockPacks packs;
    const Directions forward{directions.forward, false};
    Packer packer(backend, compute, directions, destination,
                  block_pack_bytes(backend, unit, layer, adapter, compute, forward),
                  block_pack_bytes(backend, unit, layer, adapter, compute, directions));
    for (const Field& field : unit.fields) {
        const WeightSpec& weight = field.weight;
        WeightView whole = view_of(field, bytes);
        if (weight.role == Role::kRouter) {
            packer.pack(whole, DType::kF32, packs.router.forward, packs.router.backward);
            continue;
        }
        if (is_expert(weight.role)) {
            LinearPack& pack = expert_pack(packs, weight);
            packer.pack(whole, pack.forward, pack.backward);
            continue;
        }
        if (!weight.linear) {
            packs.vector[static_cast<std::size_t>(weight.role)] = packer.copy(whole.plain);
            continue;
        }
        const AdapterTarget* target =
            adapter == nullptr ? nullptr : adapter->find(layer, weight.role);
        const bool scaled = target != nullptr && target->has_magnitudes();
        if (scaled) whole.row_factors = values.row_factors + target->first_row;
        LinearPack *first = nullptr, *last = nullptr;
        std::int64_t row = 0;
        for (const WeightPart& part : parts_of(weight)) {
            LinearPack& pack = packs.linear[static_cast<std::size_t>(part.role)];
            const WeightView rows = rows_of(whole, row, part.rows);
            packer.pack(rows, pack.forward, pack.backward);
            pack.target = target;
            pack.first_row = row;
            if (target != nullptr) {
                const AdapterTarget& t = *target;
                WeightView b = factor(values.flat + t.b + row * t.r, part.rows, t.r, t.scale);
                b.row_factors = rows.row_factors;
                packer.pack_apart(b, pack.b_forward, pack.b_backward);
            }
            if (scaled) {
                pack.row_factor = part_of(rows.row_factors, {part.rows});
                pack.magnitude = part_of(values.flat + target->magnitude + row, {part.rows});
            }
            if (first == nullptr) first = &pack;
            last = &pack;
            row += part.rows;
        }
        if (target == nullptr) continue;
        packer.pack(factor(values.flat + target->a, target->r, target->in, 1.0f), first->a_forward,
                    last->a_backward);
    }
    for (const Field& field : unit.fields) set_biases(field.weight, packs);
    return packs;
}

void measure_rows(Backend& backend, const UnitLayout& unit, const std::byte* bytes,
                  std::int64_t layer, const AdapterLayout& adapter, const AdapterValues& values,
                  RowMeasure measure) {
    for (const AdapterTarget& t : adapter.targets) {
        if (t.layer != layer || !t.has_magnitudes()) continue;
        const Tensor magnitude =
            measure == RowMeasure::kFactor ? part_of(values.flat + t.magnitude, {t.out}) : Tensor();
        backend.row_norms(view_of(unit.at(t.role), bytes), part_of(values.flat + t.a, {t.r, t.in}),
                          part_of(values.flat + t.b, {t.out, t.r}), t.scale, magnitude,
                          part_of(values.row_factors + t.first_row, {t.out}));
    }
}

}  // namespace qshard
