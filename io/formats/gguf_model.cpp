#include "io/formats/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "io/formats/gguf_config.h"
#include "spec/families.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxVocabulary = std::size_t{1} << 20;
constexpr std::size_t kChunkBytes = std::size_t{1} << 18;

/// Where a weight of ours is in the file, and what the file did to it.
struct Located {
    const GgufTensor* tensor = nullptr;
    std::int64_t begin = 0;  ///< element of the tensor that the weight begins with: an expert's
    std::int64_t permuted_heads = 0;  ///< > 0: rows are interleaved within each of so many heads
    bool plus_one = false;
};

/// Elements [first, first + count) of a tensor.
void read_elements(const GgufFile& file, const GgufTensor& tensor, std::int64_t first,
                   std::int64_t count, float* out) {
    const GgmlTraits& traits = traits_of(tensor.type);
    const std::int64_t per_block = traits.block_count;
    const auto of_chunk = static_cast<std::int64_t>(kChunkBytes / traits.block_bytes);
    const std::int64_t most = std::min(count / per_block + 2, of_chunk);  // parts at both ends
    const auto raw = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(most) *
                                                                 traits.block_bytes);
    std::vector<float> edge;
    while (count > 0) {
        const std::int64_t block = first / per_block, skipped = first % per_block;
        const std::int64_t last = (first + count - 1) / per_block;
        const std::int64_t blocks = std::min(last - block + 1, of_chunk);
        file.read(tensor, static_cast<std::uint64_t>(block) * traits.block_bytes, raw.get(),
                  static_cast<std::size_t>(blocks) * traits.block_bytes);
        const std::int64_t taken = std::min(count, blocks * per_block - skipped);
        if (skipped == 0 && taken == blocks * per_block) {
            traits.dequantize(raw.get(), blocks, out);
        } else {
            edge.resize(static_cast<std::size_t>(blocks * per_block));
            traits.dequantize(raw.get(), blocks, edge.data());
            std::copy_n(edge.begin() + skipped, taken, out);
        }
        first += taken;
        count -= taken;
        out += taken;
    }
}

class GgufModel : public WeightReader {
  public:
    explicit GgufModel(std::shared_ptr<const GgufFile> file)
        : file_(std::move(file)), config_(model_config_from_gguf(*file_)) {
        locate(embedding_weights(config_), 0);
        for (std::int64_t l = 0; l < config_.layers; ++l) locate(layer_weights(config_, l), l);
        locate(head_weights(config_), 0);
        for (const auto& [name, tensor] : file_->tensors()) {
            if (!is_rope_tensor(name) && !used_.contains(name)) {
                throw UserError(fmt::format(
                    "{}: the tensor \"{}\" is not part of a \"{}\" model as this program knows it",
                    file_->name(), name, config_.family));
            }
        }
        used_.clear();
    }

    const ModelConfig& config() const override { return config_; }

    DType source_dtype(const WeightSpec& weight) const override {
        const GgmlType type = at(weight).tensor->type;
        return type == GgmlType::kF32   ? DType::kF32
               : type == GgmlType::kF16 ? DType::kF16
                                        : DType::kBF16;
    }

    bool reads_bf16(const WeightSpec& weight) const override {
        const Located& located = at(weight);
        return located.tensor->type == GgmlType::kBF16 && !located.plus_one;
    }

    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override {
        const Located& located = at(weight);
        check_inside(weight, first, out.size());
        if (located.permuted_heads > 0) {
            read_permuted(weight, located, first, out);
        } else {
            read_elements(*file_, *located.tensor, located.begin + first, std::ssize(out),
                          out.data());
        }
        if (located.plus_one) {
            for (float& value : out) value -= 1.0f;
        }
    }

    void read_bf16(const WeightSpec& weight, std::int64_t first,
                   std::span<bf16> out) const override {
        const Located& located = at(weight);
        if (!reads_bf16(weight) || located.permuted_heads > 0)
            return WeightReader::read_bf16(weight, first, out);
        check_inside(weight, first, out.size());
        const auto at = static_cast<std::uint64_t>(located.begin + first) * sizeof(bf16);
        file_->read(*located.tensor, at, out.data(), out.size_bytes());
    }

    std::string sha256() const override { return file_->sha256(); }
    std::int64_t file_bytes() const override { return static_cast<std::int64_t>(file_->bytes()); }

  private:
    const Located& at(const WeightSpec& weight) const {
        const auto it = located_.find(weight.name);
        check(it != located_.end(), "the weight belongs to the model");
        return it->second;
    }

    void locate(const std::vector<WeightSpec>& weights, std::int64_t layer) {
        const Family& family = gguf_family(family_named(config_.family));
        for (const WeightSpec& weight : weights) {
            const std::string name = gguf_name(family, weight.role, layer);
            const GgufTensor* tensor = file_->find(name);
            const std::string& origin = file_->name();
            if (tensor == nullptr)
                throw UserError(fmt::format("{}: the tensor \"{}\" is missing", origin, name));
            std::vector<std::int64_t> expected = {weight.cols};
            if (weight.rows > 1 || weight.linear) expected.push_back(weight.rows);
            if (is_expert(weight.role)) expected.push_back(config_.experts);
            if (tensor->extents != expected) {
                throw UserError(fmt::format("{}: the tensor \"{}\" has shape [{}], expected [{}]",
                                            origin, name, fmt::join(tensor->extents, ", "),
                                            fmt::join(expected, ", ")));
            }
            if (traits_of(tensor->type).dequantize == nullptr) {
                throw UserError(fmt::format(
                    "{}: the tensor \"{}\" has type {}, which is not supported\nSupported: {}",
                    origin, name, traits_of(tensor->type).name, supported_ggml_types()));
            }
            Located located{.tensor = tensor, .begin = weight.expert * weight.count()};
            if (family.permuted_gguf) {
                if (weight.role == Role::kQ || weight.role == Role::kQBias)
                    located.permuted_heads = config_.heads;
                if (weight.role == Role::kK || weight.role == Role::kKBias)
                    located.permuted_heads = config_.kv_heads;
            }
            located.plus_one = family.norm_offset && name.ends_with("norm.weight");
            located_.emplace(weight.name, located);
            used_.insert(name);
        }
    }

    /// Row h*D + j*D/2 + i of ours (j in {0, 1}) is row h*D + 2i + j of the file. A bias is rows of
    /// one element.
    void read_permuted(const WeightSpec& weight, const Located& located, std::int64_t first,
                       std::span<float> out) const {
        const std::int64_t row_length = weight.rows == 1 ? 1 : weight.cols;
        const std::int64_t d = weight.count() / row_length / located.permuted_heads;
        const auto file_row = [d](std::int64_t row) {
            const std::int64_t in_head = row % d;
            return row - in_head + 2 * (in_head % (d / 2)) + in_head / (d / 2);
        };
        const auto end = first + static_cast<std::int64_t>(out.size());
        while (first < end) {
            // The wanted rows of one half head: every second row of a stretch of the file, fetched
            // in one piece.
            const std::int64_t row = first / row_length;
            const std::int64_t half_end = (row / (d / 2) + 1) * (d / 2) * row_length;
            const std::int64_t stop = std::min(end, half_end);
            const std::int64_t last_row = (stop - 1) / row_length;
            const std::int64_t begin_row = file_row(row),
                               file_rows = file_row(last_row) - begin_row + 1;
            const GgmlTraits& traits = traits_of(located.tensor->type);
            if (row_length % traits.block_count != 0)
                throw BugError("a row of a GGUF tensor is no whole blocks");
            const auto row_bytes =
                static_cast<std::size_t>(row_length / traits.block_count) * traits.block_bytes;
            std::vector<std::byte> raw(static_cast<std::size_t>(file_rows) * row_bytes);
            file_->read(*located.tensor, static_cast<std::uint64_t>(begin_row) * row_bytes,
                        raw.data(), raw.size());
            std::vector<float> edge(static_cast<std::size_t>(row_length));
            for (; first < stop;) {
                const std::int64_t r = first / row_length, skipped = first % row_length;
                const std::int64_t taken = std::min(stop - first, row_length - skipped);
                float* target =
                    out.data() + (static_cast<std::int64_t>(out.size()) - (end - first));
                const std::byte* source =
                    raw.data() + static_cast<std::size_t>(file_row(r) - begin_row) * row_bytes;
                const bool whole = taken == row_length;
                traits.dequantize(source, row_length / traits.block_count,
                                  whole ? target : edge.data());
                if (!whole) std::copy_n(edge.begin() + skipped, taken, target);
                first += taken;
            }
        }
    }

    std::shared_ptr<const GgufFile> file_;
    ModelConfig config_;
    std::unordered_map<std::string, Located> located_;
    std::set<std::string, std::less<>> used_;  // only while the model is opened
};

}  // namespace

std::unique_ptr<WeightReader> open_gguf_model(std::shared_ptr<const GgufFile> file) {
    return std::make_unique<GgufModel>(std::move(file));
}

std::optional<GgufTokenizerData> gguf_tokenizer(const GgufFile& file) {
    const std::string* model = file.text("tokenizer.ggml.model");
    const std::vector<std::string>* tokens = file.texts("tokenizer.ggml.tokens");
    if (model == nullptr || tokens == nullptr) return std::nullopt;
    const auto fail = [&](const char* what) {
        throw UserError(fmt::format("{}: {}", file.name(), what));
    };
    if (tokens->size() > kMaxVocabulary) fail("more than 1,048,576 tokens");
    GgufTokenizerData data;
    data.model = *model;
    if (const std::string* pre = file.text("tokenizer.ggml.pre")) data.pre = *pre;
    data.tokens = *tokens;
    if (const auto* merges = file.texts("tokenizer.ggml.merges")) data.merges = *merges;
    if (const auto* scores = file.numbers("tokenizer.ggml.scores")) {
        for (double score : *scores) data.scores.push_back(static_cast<float>(score));
    }
    if (const auto* types = file.integers("tokenizer.ggml.token_type")) {
        for (std::int64_t type : *types) {
            if (type < 0 || type > 6) fail("a token type that is not 0 to 6");
            data.token_types.push_back(static_cast<std::int32_t>(type));
        }
    }
    if ((!data.scores.empty() && data.scores.size() != data.tokens.size()) ||
        (!data.token_types.empty() && data.token_types.size() != data.tokens.size())) {
        fail("tokenizer.ggml.tokens, scores and token_type have unequal lengths");
    }
    const auto token = [&](const char* key) -> std::optional<std::int32_t> {
        const std::optional<std::int64_t> id = file.integer(key);
        if (!id || *id < 0 || *id >= static_cast<std::int64_t>(data.tokens.size()))
            return std::nullopt;
        return static_cast<std::int32_t>(*id);
    };
    data.bos = token("tokenizer.ggml.bos_token_id");
    data.eos = token("tokenizer.ggml.eos_token_id");
    data.unk = token("tokenizer.ggml.unknown_token_id");
    data.pad = token("tokenizer.ggml.padding_token_id");
    data.eot = token("tokenizer.ggml.eot_token_id");
    data.add_bos = file.boolean("tokenizer.ggml.add_bos_token");
    data.add_eos = file.boolean("tokenizer.ggml.add_eos_token");
    data.add_space_prefix = file.boolean("tokenizer.ggml.add_space_prefix");
    const std::string* architecture = file.text("general.architecture");
    data.specials_strip_right =
        architecture != nullptr && *architecture == "phi3" && data.model == "llama";
    return data;
}

}  // namespace qshard
