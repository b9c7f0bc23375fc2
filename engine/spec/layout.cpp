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

std::size_t nested_blocks(std::size_t blocks) {
    return (blocks + kNestedBlock - 1) / kNestedBlock;
}

WeightForm form_of(const WeightSpec& weight, const LayoutOptions& options) {
    if (!weight.linear) return {};
    const auto taken = options.taken.find(weight.name);
    if (taken != options.taken.end()) return taken->second;
    const Storage storage = storage_of(options.quantization);
    return {storage, is_four_bit(storage) && options.double_quant};
}

Field make_field(const WeightSpec& weight, const LayoutOptions& options) {
    Field field;
    field.weight = weight;
    const WeightForm form = form_of(weight, options);
    field.storage = form.storage;
    field.double_quant = form.double_quant;
    const std::int64_t count = weight.count();
    if (is_four_bit(form.storage)) {
        field.blocks = (count + kFourBitBlock - 1) / kFourBitBlock;
        field.data_bytes = static_cast<std::size_t>((count + 1) / 2);
    } else if (form.storage == Storage::kInt8) {
        field.blocks = weight.rows;
        field.data_bytes = static_cast<std::size_t>(count);
    } else {
        field.dtype = weight.rows > 1 ? options.plain_dtype : DType::kF32;
        field.data_bytes = static_cast<std::size_t>(count) * bytes_of(field.dtype);
    }
    field.taken = form.storage != Storage::kPlain && options.taken.contains(weight.name);
    return field;
}

UnitLayout make_unit(std::string name, const std::vector<WeightSpec>& weights,
                     const LayoutOptions& options) {
    UnitLayout unit;
    unit.name = std::move(name);
    for (const WeightSpec& weight : weights) unit.fields.push_back(make_field(weight, options));
    std::size_t end = 0;
    for (Field& field : unit.fields) {
        if (field.storage != Storage::kPlain) field.data = reserve(end, field.data_bytes);
    }
    unit.code_bytes = end;
    for (Field& field : unit.fields) {
        const auto blocks = static_cast<std::size_t>(field.blocks);
        if (field.storage == Storage::kPlain) {
            field.data = reserve(end, field.data_bytes);
        } else if (field.double_quant) {
            field.absmax = reserve(end, blocks);
            field.absmax2 = reserve(end, nested_blocks(blocks) * sizeof(float));
            field.offset = reserve(end, sizeof(float));
        } else {
            field.absmax = reserve(end, blocks * sizeof(float));
        }
    }
    unit.bytes = end;
    return unit;
}

/// The one table of what linears can be stored as.
struct QuantizationRow {
    Quantization quantization;
    Storage storage;
    std::string_view name;
};
constexpr QuantizationRow kQuantizations[] = {
    {Quantization::kNf4, Storage::kNf4, "nf4"},
    {Quantization::kFp4, Storage::kFp4, "fp4"},
    {Quantization::kInt8, Storage::kInt8, "int8"},
    {Quantization::kNone, Storage::kPlain, "none"},
};

template <class Value>
const QuantizationRow& row_with(Value QuantizationRow::*member, Value value) {
    const auto* row = std::find_if(std::begin(kQuantizations), std::end(kQuantizations),
                                   [&](const QuantizationRow& r) { return r.*member == value; });
    check(row != std::end(kQuantizations), "the quantization is one of the table");
    return *row;
}

template <class Visit>
void for_each_linear(const ModelConfig& config, Visit&& visit) {
    for (std::int64_t l = 0; l < config.layers; ++l) {
        for (const WeightSpec& weight : layer_weights(config, l)) {
            if (weight.linear) visit(weight);
        }
    }
}

}  // namespace

std::string_view name_of(Quantization quantization) {
    return row_with(&QuantizationRow::quantization, quantization).name;
}

Quantization quantization_named(std::string_view name) {
    return row_with(&QuantizationRow::name, name).quantization;
}

std::vector<std::string> quantization_names() {
    std::vector<std::string> names;
    for (const QuantizationRow& row : kQuantizations) names.emplace_back(row.name);
    return names;
}

Storage storage_of(Quantization quantization) {
    return row_with(&QuantizationRow::quantization, quantization).storage;
}

Quantization quantization_of(Storage storage) {
    return row_with(&QuantizationRow::storage, storage).quantization;
}

std::string describe(const WeightForm& form) {
    return fmt::format("{}{}", name_of(quantization_of(form.storage)),
                       form.double_quant ? " + double quantization" : "");
}

std::vector<FieldPart> parts_of(const Field& field) {
    std::vector<FieldPart> sections = {{StoredPart::kData, field.data, field.data_bytes}};
    if (field.storage == Storage::kPlain) return sections;
    const auto blocks = static_cast<std::size_t>(field.blocks);
    if (!field.double_quant) {
        sections.push_back({StoredPart::kAbsmax, field.absmax, blocks * sizeof(float)});
        return sections;
    }
    sections.push_back({StoredPart::kAbsmax, field.absmax, blocks});
    sections.push_back(
        {StoredPart::kAbsmax2, field.absmax2, nested_blocks(blocks) * sizeof(float)});
    sections.push_back({StoredPart::kOffset, field.offset, sizeof(float)});
    return sections;
}

std::optional<WeightForm> quantized_form_of(const WeightReader& source) {
    std::optional<WeightForm> found;
    for_each_linear(source.config(), [&](const WeightSpec& weight) {
        const WeightForm form = source.form(weight);
        if (!found && form.storage != Storage::kPlain) found = form;
    });
    return found;
}

LayoutOptions layout_options_for(const WeightReader& source, Quantization quantization,
                                 bool double_quant, DType plain_dtype) {
    if (const StoredUnits* stored = source.stored_units()) {
        const LayoutOptions& its = stored->options();
        if (its.quantization == quantization && its.plain_dtype == plain_dtype) return its;
        throw UserError(fmt::format(
            "the weight store holds {} with other weights in {}, but {} and {} were asked for\n"
            "Make another store with qshard quantize --quantization {} --compute-dtype {}, or "
            "start "
            "from the model itself.",
            name_of(its.quantization), name_of(its.plain_dtype), name_of(quantization),
            name_of(plain_dtype), name_of(quantization), name_of(plain_dtype)));
    }
    LayoutOptions options{quantization, double_quant, plain_dtype, {}};
    if (quantization == Quantization::kNone || !quantized_form_of(source)) return options;
    for_each_linear(source.config(), [&](const WeightSpec& weight) {
        const WeightForm form = source.form(weight);
        if (form.storage != Storage::kPlain && form.storage != storage_of(quantization)) {
            throw UserError(fmt::format(
                "the model is quantized already: {} is {}, but quantization {} was asked for\nTry "
                "{}, or the original model.",
                weight.name, describe(form), name_of(quantization),
                name_of(quantization_of(form.storage))));
        }
        options.taken.emplace(weight.name, form);
    });
    return options;
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
