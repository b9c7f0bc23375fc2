#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "spec/weights.h"

/// A unit's bytes, described once. A unit is what is gathered at a time: the embedding, one decoder
/// layer, or the head. Import, quantization, sharding, gathering and inspection iterate this table;
/// sharding cuts a unit's block evenly and is blind to what is in it.
namespace qshard {

enum class Quantization : std::uint8_t { kNone, kNf4 };

std::string_view name_of(Quantization quantization);

/// How a weight is stored.
enum class Storage : std::uint8_t { kPlain, kNf4 };

constexpr std::int64_t kNf4Block = 64;  ///< weights per absmax
constexpr std::int64_t kNestedBlock =
    256;  ///< absmax values per second-level absmax (double quantization)
constexpr std::size_t kUnitAlignment = 64;  ///< of every section of a unit, bytes

/// Where one weight lies inside its unit's block. Byte offsets from the start of the block,
/// multiples of kUnitAlignment.
struct Field {
    WeightSpec weight;
    Storage storage = Storage::kPlain;
    DType dtype = DType::kF32;  ///< kPlain: dtype of the elements
    std::size_t data =
        0;  ///< kPlain: elements, row-major. kNf4: codes, even element in the high nibble
    std::size_t data_bytes = 0;
    // kNf4 without double quantization: absmax is float[blocks].
    // kNf4 with it: absmax is uint8[blocks], absmax2 float[ceil(blocks / 256)], offset one float.
    bool double_quant = false;
    std::int64_t blocks = 0;  ///< ceil(count / kNf4Block)
    std::size_t absmax = 0, absmax2 = 0, offset = 0;
};

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
};

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
