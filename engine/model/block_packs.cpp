#include "model/block_packs.h"

#include <initializer_list>

#include "model/trained_weight.h"
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
    Packer(Backend& backend, Directions directions, std::byte* destination,
           std::size_t forward_bytes, std::size_t bytes)
        : backend_(backend),
          directions_(directions),
          forward_(destination),
          backward_(destination + forward_bytes),
          end_(destination + bytes) {}

    /// W, and A backward: y = ... + x W^T, dx = ... + dy W.
    void pack(const WeightView& weight, DType dtype, Packed& forward, Packed& backward) {
        if (directions_.forward) forward = one(weight, Orientation::kForward, dtype, forward_);
        if (directions_.backward) backward = one(weight, Orientation::kBackward, dtype, backward_);
    }
    /// What is no term beside others backward, as B, which makes du by itself: there from the end
    /// downward.
    void pack_apart(const WeightView& weight, DType dtype, Packed& forward, Packed& backward) {
        if (directions_.forward) forward = one(weight, Orientation::kForward, dtype, forward_);
        if (!directions_.backward) return;
        end_ -= Scratch::aligned(
            backend_.packed_bytes(weight.rows, weight.cols, Orientation::kBackward, dtype));
        backward = backend_.pack(weight, Orientation::kBackward, dtype, end_);
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

ExpertPacks& packs_of_expert(BlockPacks& packs, const WeightSpec& weight) {
    const auto index = static_cast<std::size_t>(weight.expert);
    if (packs.experts.size() <= index) packs.experts.resize(index + 1);
    return packs.experts[index];
}

/// How a weight is packed: which experts are chosen must not hang on a rounding.
DType dtype_of(const WeightSpec& weight, DType compute) {
    return weight.role == Role::kRouter ? DType::kF32 : compute;
}

/// W and, where it is adapted, B beside it.
void pack_with_b(Packer& packer, const WeightView& weight, DType dtype, const AdapterPart& part,
                 const AdapterValues& values, LinearPack& pack) {
    packer.pack(weight, dtype, pack.forward, pack.backward);
    pack.target = part.target;
    pack.expert = part.expert;
    pack.first_row = part.first_row;
    if (part.target == nullptr) return;
    const AdapterTarget& t = *part.target;
    WeightView b = factor(values.flat + t.b_of_row(part.first_row), weight.rows, t.r, t.scale);
    b.row_factors = weight.row_factors;
    packer.pack_apart(b, dtype, pack.b_forward, pack.b_backward);
}

/// A, for the first and the last of the linears that share it.
void pack_a(Packer& packer, DType dtype, const AdapterPart& part, const AdapterValues& values,
            LinearPack& first, LinearPack& last) {
    if (part.target == nullptr) return;
    const AdapterTarget& t = *part.target;
    packer.pack(factor(values.flat + t.a_of(part.expert), t.r, t.in, 1.0f), dtype, first.a_forward,
                last.a_backward);
}

/// The linears of an expert come apart: all gates of the layer, then all ups.
void pack_expert(Packer& packer, const WeightSpec& weight, const WeightView& whole, DType compute,
                 const AdapterPart& part, const AdapterValues& values, ExpertPacks& expert) {
    LinearPack& pack = weight.role == Role::kExpertGate ? expert.gate
                       : weight.role == Role::kExpertUp ? expert.up
                                                        : expert.down;
    pack_with_b(packer, whole, compute, part, values, pack);
    if (weight.role == Role::kExpertGate) return;
    pack_a(packer, compute, part, values, weight.role == Role::kExpertUp ? expert.gate : pack,
           pack);
}

/// Gives the parts of a linear their stretches of its bias.
void set_biases(const WeightSpec& weight, BlockPacks& packs) {
    if (!weight.linear) return;
    const Role role = bias_role(weight.role);
    if (role == Role::kCount || packs.gain(role).empty()) return;
    float* next = packs.gain(role).as<float>();
    const TrainedWeight* trained = packs.trained(role);
    std::int64_t row = 0;
    for (const WeightPart& part : parts_of(weight)) {
        LinearPack& pack = packs.linear[static_cast<std::size_t>(part.role)];
        pack.bias = Tensor(next + row, DType::kF32, {part.rows});
        if (trained != nullptr) pack.trained_bias = trained->tensor.offset + row;
        row += part.rows;
    }
}

}  // namespace

std::size_t block_pack_bytes(const Backend& backend, const UnitLayout& unit, std::int64_t layer,
                             const AdapterLayout* adapter, DType compute, Directions directions) {
    std::size_t bytes = 0;
    for (const Field& field : unit.fields) {
        const WeightSpec& weight = field.weight;
        if (!weight.linear && weight.role != Role::kRouter) {
            bytes += Scratch::aligned(static_cast<std::size_t>(weight.count()) * sizeof(float));
            continue;
        }
        const DType dtype = dtype_of(weight, compute);
        const AdapterTarget* target =
            adapter == nullptr ? nullptr : adapter->part_of(layer, weight).target;
        for (const WeightPart& part : parts_of(weight)) {
            const std::size_t pair = pair_bytes(backend, part.rows, weight.cols, dtype, directions);
            const bool twice = directions.unscaled && target != nullptr && target->has_magnitudes();
            bytes += twice ? 2 * pair : pair;
            if (target != nullptr)
                bytes += pair_bytes(backend, part.rows, target->r, dtype, directions);
        }
        if (target != nullptr && weight.role != Role::kExpertGate)
            bytes += pair_bytes(backend, target->r, target->in, dtype, directions);
    }
    return bytes;
}

BlockPacks prepare_block(Backend& backend, const UnitLayout& unit, const std::byte* bytes,
                         std::int64_t layer, const AdapterLayout* adapter,
                         const AdapterValues& values, DType compute, Directions directions,
                         std::byte* destination) {
    BlockPacks packs;
    packs.adapter = adapter;
    packs.range = AdapterLayout::layer_range(layer);
    const Directions forward{directions.forward, false, directions.unscaled};
    Packer packer(backend, directions, destination,
                  block_pack_bytes(backend, unit, layer, adapter, compute, forward),
                  block_pack_bytes(backend, unit, layer, adapter, compute, directions));
    for (const Field& field : unit.fields) {
        const WeightSpec& weight = field.weight;
        WeightView whole = view_of(field, bytes);
        const AdapterPart part =
            adapter == nullptr ? AdapterPart() : adapter->part_of(layer, weight);
        if (is_expert(weight.role)) {
            pack_expert(packer, weight, whole, compute, part, values,
                        packs_of_expert(packs, weight));
            continue;
        }
        if (weight.role == Role::kRouter) {
            pack_with_b(packer, whole, DType::kF32, part, values, packs.router);
            pack_a(packer, DType::kF32, part, values, packs.router, packs.router);
            continue;
        }
        if (!weight.linear) {
            const Tensor own = trained_weight(adapter, packs.range, weight.role, values.flat);
            packs.vector[static_cast<std::size_t>(weight.role)] =
                packer.copy(own.empty() ? whole.plain : own);
            continue;
        }
        const AdapterTarget* target = part.target;
        const bool scaled = target != nullptr && target->has_magnitudes();
        const WeightView unscaled = whole;
        if (scaled) whole.row_factors = values.row_factors + target->first_row;
        LinearPack *first = nullptr, *last = nullptr;
        std::int64_t row = 0;
        for (const WeightPart& fused : parts_of(weight)) {
            LinearPack& pack = packs.linear[static_cast<std::size_t>(fused.role)];
            const WeightView rows = rows_of(whole, row, fused.rows);
            pack.role = fused.role;
            if (scaled && directions.unscaled) {
                packer.pack_apart(rows_of(unscaled, row, fused.rows), compute,
                                  pack.unscaled_forward, pack.unscaled_backward);
            }
            pack_with_b(packer, rows, compute, {target, 0, row}, values, pack);
            if (scaled) {
                pack.row_factor = part_of(rows.row_factors, {fused.rows});
                pack.magnitude = part_of(values.flat + target->magnitude + row, {fused.rows});
            }
            if (first == nullptr) first = &pack;
            last = &pack;
            row += fused.rows;
        }
        pack_a(packer, compute, part, values, *first, *last);
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
