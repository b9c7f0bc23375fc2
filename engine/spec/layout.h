#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/hash.h"
#include "spec/weights.h"
#include "tensor/nf4.h"

/// A unit's bytes, described once. A unit is what is gathered at a time: the embedding, one decoder
/// layer, or the head. Import, quantization, sharding, gathering and inspection iterate this table;
/// sharding cuts a unit's block evenly and is blind to what is in it.
namespace qshard {

/// What the frozen linears are stored as.
enum class Quantization : std::uint8_t { kNone, kNf4, kFp4, kInt8 };

/// "none", "nf4", "fp4", "int8".
std::string_view name_of(Quantization quantization);
/// BugError if there is no such name.
Quantization quantization_named(std::string_view name);
/// All names, for the run file and the command line.
std::vector<std::string> quantization_names();
Storage storage_of(Quantization quantization);
Quantization quantization_of(Storage storage);
/// "nf4 + double quantization", "int8".
std::string describe(const WeightForm& form);

/// Of kNf4 and kFp4.
inline const FourBitCode& four_bit_code(Storage storage) {
    return storage == Storage::kFp4 ? kFp4Code : kNf4Code;
}

constexpr std::int64_t kFourBitBlock = 64;  ///< weights per absmax
constexpr std::int64_t kNestedBlock =
    256;  ///< absmax values per second-level absmax (double quantization)
constexpr std::size_t kUnitAlignment = 64;  ///< of every section of a unit, bytes

/// Where one weight lies inside its unit's block. Byte offsets from the start of the block,
/// multiples of kUnitAlignment; what each part holds: StoredPart.
struct Field {
    WeightSpec weight;
    Storage storage = Storage::kPlain;
    DType dtype = DType::kF32;  ///< kPlain: dtype of the elements
    std::size_t data = 0, data_bytes = 0;
    bool double_quant = false;
    std::int64_t blocks = 0;  ///< absmax values: 4-bit ceil(count / kFourBitBlock), int8 rows
    std::size_t absmax = 0, absmax2 = 0, offset = 0;
    bool taken = false;  ///< the source has these very bytes
};

/// A section of a field, as a part of the unit's block.
struct FieldPart {
    StoredPart part = StoredPart::kData;
    std::size_t begin = 0, bytes = 0;
};
std::vector<FieldPart> parts_of(const Field& field);

struct UnitLayout {
    std::string name;  ///< "embed", "layer.3", "head"
    std::vector<Field> fields;
    std::size_t bytes = 0;       ///< of the block, unpadded
    std::size_t code_bytes = 0;  ///< the block starts with all code sections, this many bytes

    /// Bytes of one shard of W: ceil(bytes / W) rounded up to kUnitAlignment; the last shard is
    /// padded with zeros.
    std::size_t shard_bytes(int world) const;
    const Field* find(Role role) const;
    const Field& at(Role role) const;  ///< BugError if absent
};

/// Options that change what is stored.
struct LayoutOptions {
    Quantization quantization = Quantization::kNf4;
    bool double_quant = true;
    DType plain_dtype =
        DType::kBF16;  ///< of embeddings, head and unquantized linears; norms and biases are fp32
    /// Linears by name where the source is quantized already: they keep their form, byte for byte.
    std::map<std::string, WeightForm, std::less<>> taken = {};

    bool operator==(const LayoutOptions&) const = default;
};

/// Units that a source has ready, quantized and laid out.
class StoredUnits {
  public:
    virtual ~StoredUnits() = default;
    /// What they were laid out by.
    virtual const LayoutOptions& options() const = 0;
    /// Bytes [first, first + out.size()) of a unit. Thread-safe.
    virtual void read(std::string_view unit, std::size_t first, std::span<std::byte> out) const = 0;
    /// UserError unless the bytes of the unit add up to what was stored.
    virtual void check_sum(std::string_view unit, const PositionSum& found) const = 0;
};

/// What the first quantized linear of a source is stored as, or nothing if all are plain.
std::optional<WeightForm> quantized_form_of(const WeightReader& source);
/// Options for a source: quantized ones are taken as they are, kNone expands them; a weight store
/// has its own. UserError if the source is quantized to something else than `quantization`, or a
/// weight store holds its other weights in another dtype.
LayoutOptions layout_options_for(const WeightReader& source, Quantization quantization,
                                 bool double_quant, DType plain_dtype);

/// Units in the order of use: embed, layer.0 .. layer.L-1, and head unless it is tied to the
/// embedding.
struct ModelLayout {
    std::vector<UnitLayout> units;
    bool tied_head = false;

    std::int64_t layers() const {
        return static_cast<std::int64_t>(units.size()) - (tied_head ? 1 : 2);
    }
    std::size_t embed_unit() const { return 0; }
    std::size_t layer_unit(std::int64_t layer) const { return static_cast<std::size_t>(layer) + 1; }
    /// The unit that holds final norm and output embedding.
    std::size_t head_unit() const { return tied_head ? 0 : units.size() - 1; }
    std::size_t bytes() const;
    std::size_t largest_unit_bytes() const;
};

ModelLayout make_layout(const ModelConfig& config, const LayoutOptions& options);

}  // namespace qshard
