#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "spec/model_config.h"

/// Names and shapes of a model's weights, in Hugging Face's terms whatever the file's format.
namespace qshard {

/// What a weight does; the decoder asks for weights by role, never by name.
enum class Role : std::uint8_t {
    kEmbed,
    kPositions,
    kFinalNorm,
    kFinalNormBias,
    kHead,
    kNorm1,
    kNorm1Bias,
    kQkv,
    kQkvBias,
    kQ,
    kQBias,
    kK,
    kKBias,
    kV,
    kVBias,
    kO,
    kOBias,
    kQNorm,
    kKNorm,
    kPostAttentionNorm,
    kNorm2,
    kNorm2Bias,
    kGateUp,
    kGate,
    kGateBias,
    kUp,
    kUpBias,
    kDown,
    kDownBias,
    kPostFfnNorm,
    kRouter,
    kExpertGate,
    kExpertUp,
    kExpertDown,
    kExpertGateUp,  ///< an expert's gate and up as one, which only adapters know
    kCount
};

/// Rows of a weight that the decoder computes with as a linear of its own.
struct WeightPart {
    Role role = Role::kEmbed;
    std::int64_t rows = 0;
};

/// How a weight is stored.
enum class Storage : std::uint8_t {
    kPlain,  ///< elements
    kNf4,    ///< 4-bit codes with an absmax per 64 weights, counted over rows
    kFp4,    ///< the same with another table
    kInt8,   ///< 8-bit codes with an absmax per row
};

constexpr bool is_four_bit(Storage storage) {
    return storage == Storage::kNf4 || storage == Storage::kFp4;
}

struct WeightForm {
    Storage storage = Storage::kPlain;
    bool double_quant = false;  ///< 4-bit: the absmax values are 8-bit codes themselves
    bool operator==(const WeightForm&) const = default;
};

/// The sections that a stored weight's bytes are in.
enum class StoredPart : std::uint8_t {
    kData,     ///< elements or codes, row-major; 4-bit: the even element in the high nibble
    kAbsmax,   ///< float a block (a row); double-quantized: uint8 a block
    kAbsmax2,  ///< double-quantized: float per 256 blocks
    kOffset,   ///< double-quantized: one float
};

/// One weight: shape [rows, cols] (vectors have rows = 1), named as in the Hugging Face checkpoint
/// of its family.
struct WeightSpec {
    Role role = Role::kEmbed;
    std::string name;  ///< e.g. "model.layers.0.self_attn.q_proj.weight"
    std::int64_t rows = 0, cols = 0;
    bool linear = false;  ///< a frozen linear of a decoder layer: quantized, and a LoRA target by
                          ///< the module's name
    std::vector<WeightPart> parts = {};  ///< of a fused linear, in the order of its rows
    std::int64_t expert = 0;             ///< which one, of a mixture of experts
    bool transposed = false;             ///< Hugging Face stores [cols, rows]

    std::int64_t count() const { return rows * cols; }
    /// The module's path: the name without its last component ("model.layers.0.self_attn.q_proj").
    std::string_view module() const { return std::string_view(name).substr(0, name.rfind('.')); }
};

/// Weights of the embedding unit: embedding, and (tied head) the final norm.
std::vector<WeightSpec> embedding_weights(const ModelConfig& config);
/// Weights of decoder layer `layer`, in the order q, k, v, o, gate, up, down (linears), then the
/// experts' gates, ups and downs, then the router, norms and biases.
std::vector<WeightSpec> layer_weights(const ModelConfig& config, std::int64_t layer);
/// The linears of a layer without experts as they are stored (a fused one once), in that order.
std::vector<Role> linear_roles(const ModelConfig& config);
/// Whether it is the bias of a linear or a norm.
bool is_bias(Role role);
/// Whether a linear belongs to one of a mixture's experts.
bool is_expert(Role linear);
/// Weights of the head unit: final norm and lm_head; empty if the head is tied.
std::vector<WeightSpec> head_weights(const ModelConfig& config);

class StoredUnits;

/// Reads parts of weights from a model's files, whatever their format. Thread-safe.
class WeightReader {
  public:
    virtual ~WeightReader() = default;
    virtual const ModelConfig& config() const = 0;
    /// Dtype the values come in before any rounding of ours: kF32, kF16 or kBF16; block-quantized
    /// GGUF types say kBF16, because their values are rounded to bf16 on import.
    virtual DType source_dtype(const WeightSpec& weight) const = 0;
    /// Whether read() gives values that bf16 holds exactly: rounding them to it is a waste.
    virtual bool reads_bf16(const WeightSpec&) const { return false; }
    /// Elements [first, first + out.size()) of the row-major [rows, cols] weight as fp32 (exact
    /// values of the source; GGUF's permuted q and k rows come back in Hugging Face's order).
    virtual void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const = 0;
    /// The same rounded to bf16: of a source in bf16, its bytes.
    virtual void read_bf16(const WeightSpec& weight, std::int64_t first, std::span<bf16> out) const;
    /// How the source holds the weight. What is not plain can be had as it is, by sections.
    virtual WeightForm form(const WeightSpec&) const { return {}; }
    /// Bytes [first, first + out.size()) of a section of a weight that is not plain.
    virtual void read_part(const WeightSpec& weight, StoredPart part, std::size_t first,
                           std::span<std::byte> out) const;
    /// Null unless the source has whole units ready: a weight store.
    virtual const StoredUnits* stored_units() const { return nullptr; }
    /// Identifies the source's content: SHA-256 over names, sizes and headers of its files (not
    /// over all data).
    virtual std::string sha256() const = 0;
    /// Whether `recorded` is that digest, as this version or an earlier one computes it.
    virtual bool has_sha256(const std::string& recorded) const { return recorded == sha256(); }
    /// What a user should know of how the files were read, a line each.
    virtual std::vector<std::string> notes() const { return {}; }
    /// Bytes of the files that hold the weights.
    virtual std::int64_t file_bytes() const = 0;

  protected:
    /// BugError unless elements [first, first + count) are the weight's.
    static void check_inside(const WeightSpec& weight, std::int64_t first, std::size_t count);
};

/// Whether what `reader` gives is rounded to bf16 before anything else, as transformers does on
/// loading: unless the source is fp32 or fp16 and plain_dtype is fp32, or has been rounded already.
bool rounds_on_import(const WeightReader& reader, const WeightSpec& weight, DType plain_dtype);

}  // namespace qshard
