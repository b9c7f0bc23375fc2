#include "spec/layout.h"

#include <algorithm>

#include "base/error.h"

namespace qshard {
namespace {

std::size_t align_up(std::size_t bytes, std::size_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

std::size_t reserve(std::size_t& end, std::size_t bytes) {
    const std::size_t begin = end;
    end = align_up(end + bytes, kUnitAlignment);
    return begin;
}

UnitLayout make_unit(std::string name, const std::vector<WeightSpec>& weights,
                     const LayoutOptions& options) {
    UnitLayout unit;
    unit.name = std::move(name);
    for (const WeightSpec& weight : weights) {
        Field field;
        field.weight = weight;
        if (weight.linear && options.quantization == Quantization::kNf4) {
            field.storage = Storage::kNf4;
            field.double_quant = options.double_quant;
            field.blocks = (weight.count() + kNf4Block - 1) / kNf4Block;
            field.data_bytes = static_cast<std::size_t>((weight.count() + 1) / 2);
        } else {
            field.dtype = weight.rows > 1 ? options.plain_dtype : DType::kF32;
            field.data_bytes = static_cast<std::size_t>(weight.count()) * bytes_of(field.dtype);
        }
        unit.fields.push_back(field);
    }
    std::size_t end = 0;
    for (Field& field : unit.fields) {
        if (field.storage == Storage::kNf4) field.data = reserve(end, field.data_bytes);
    }
    unit.code_bytes = end;
    for (Field& field : unit.fields) {
        if (field.storage == Storage::kPlain) {
            field.data = reserve(end, field.data_bytes);
        } else if (field.double_quant) {
            field.absmax = reserve(end, static_cast<std::size_t>(field.blocks));
            field.absmax2 = reserve(
                end, static_cast<std::size_t>((field.blocks + kNestedBlock - 1) / kNestedBlock) *
                         sizeof(float));
            field.offset = reserve(end, sizeof(float));
        } else {
            field.absmax = reserve(end, static_cast<std::size_t>(field.blocks) * sizeof(float));
        }
    }
    unit.bytes = end;
    return unit;
}

}  // namespace

std::string_view name_of(Quantization quantization) {
    return quantization == Quantization::kNf4 ? "nf4" : "none";
}

std::size_t UnitLayout::shard_bytes(int world) const {
    const auto w = static_cast<std::size_t>(world);
    return align_up((bytes + w - 1) / w, kUnitAlignment);
}

const Field* UnitLayout::find(Role role) const {
    const auto it = std::find_if(fields.begin(), fields.end(),
                                 [role](const Field& field) { return field.weight.role == role; });
    return it == fields.end() ? nullptr : &*it;
}

const Field& UnitLayout::at(Role role) const {
    const Field* field = find(role);
    check(field != nullptr, "the unit has a weight of the role asked for");
    return *field;
}

std::size_t ModelLayout::bytes() const {
    std::size_t total = 0;
    for (const UnitLayout& unit : units) total += unit.bytes;
    return total;
}

std::size_t ModelLayout::largest_unit_bytes() const {
    std::size_t largest = 0;
    for (const UnitLayout& unit : units) largest = std::max(largest, unit.bytes);
    return largest;
}

ModelLayout make_layout(const ModelConfig& config, const LayoutOptions& options) {
    ModelLayout layout;
    layout.tied_head = config.tied_head;
    layout.units.push_back(make_unit("embed", embedding_weights(config), options));
    for (std::int64_t l = 0; l < config.layers; ++l) {
        layout.units.push_back(
            make_unit(fmt::format("layer.{}", l), layer_weights(config, l), options));
    }
    if (!config.tied_head) layout.units.push_back(make_unit("head", head_weights(config), options));
    return layout;
}

}  // namespace qshard
