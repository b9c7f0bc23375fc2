#include "io/formats/hf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstring>
#include <map>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/hash.h"
#include "io/formats/bnb_weight.h"
#include "io/formats/dequantized.h"
#include "io/formats/gguf_dequant.h"
#include "io/formats/hf_head.h"
#include "io/formats/safetensors.h"
#include "spec/config_json.h"
#include "spec/families.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxConfig = std::size_t{1} << 20;
constexpr std::size_t kMaxIndex = std::size_t{64} << 20;
constexpr std::size_t kMaxShards = 4096;
constexpr std::size_t kChunk = std::size_t{1} << 17;  // elements read at a time
constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kSingleName = "model.safetensors";

/// Where a weight is: a plain tensor, or what bitsandbytes made of one.
struct Located {
    TensorInFile plain;
    std::optional<BnbWeight> quantized;
};

/// A prefix that a wrapper model puts before the names of its text model, and what it replaces.
struct Prefix {
    std::string_view theirs, ours;
};
constexpr std::array<Prefix, 5> kPrefixes = {{{"", ""},
                                              {"model.language_model.", "model."},
                                              {"language_model.", ""},
                                              {"", "model."},
                                              {"", "transformer."}}};

std::string under(const Prefix& prefix, std::string_view name) {
    if (!name.starts_with(prefix.ours)) return std::string(name);
    return std::string(prefix.theirs) + std::string(name.substr(prefix.ours.size()));
}

GgmlType plain_type(SafetensorsType type) {
    if (type == SafetensorsType::kBF16) return GgmlType::kBF16;
    return type == SafetensorsType::kF16 ? GgmlType::kF16 : GgmlType::kF32;
}

/// What old files kept beside the weights: frequencies, and GPT-2's causal masks.
bool is_buffer(std::string_view name) {
    return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") ||
           name.ends_with(".attn.masked_bias");
}

/// Parts of models that are known and have nothing to do with the text model's logits: encoders of
/// images and sound and what joins them to the text, and heads of other tasks.
bool is_known_part(std::string_view name) {
    static constexpr std::array<std::string_view, 18> kParts = {"vision_tower",
                                                                "vision_model",
                                                                "vision_encoder",
                                                                "visual",
                                                                "vision_embed_tokens",
                                                                "embed_vision",
                                                                "image_newline",
                                                                "multi_modal_projector",
                                                                "mm_projector",
                                                                "audio_tower",
                                                                "audio_model",
                                                                "embed_audio",
                                                                "connector",
                                                                "aligner",
                                                                "score",
                                                                "classifier",
                                                                "v_head",
                                                                "value_head"};
    for (const std::string_view wrapper : {"model.", "base_model."}) {
        if (name.starts_with(wrapper)) name.remove_prefix(wrapper.size());
    }
    return std::ranges::any_of(kParts,
                               [&](std::string_view part) {
                                   return name.starts_with(part) && name.size() > part.size() &&
                                          name[part.size()] == '.';
                               }) ||
           name == "image_newline";
}

class HuggingFaceModel : public WeightReader {
  public:
    HuggingFaceModel(const ModelFolder& folder, std::optional<bool> tied_in_store)
        : folder_(folder) {
        config_text_ = folder.open("config.json").text(kMaxConfig);
        config_ = model_config_from_json(config_text_, path_of("config.json"));
        open_files();
        choose_prefix();
        choose_head(tied_in_store);
        locate(embedding_weights(config_));
        for (std::int64_t l = 0; l < config_.layers; ++l) locate(layer_weights(config_, l));
        locate(head_weights(config_));
        refuse_unknown();
        override_eos();
    }

    std::vector<std::string> notes() const override { return notes_; }

    const ModelConfig& config() const override { return config_; }

    DType source_dtype(const WeightSpec& weight) const override {
        const Located& located = at(weight);
        if (located.quantized) return located.quantized->source_dtype();
        const SafetensorsType type = located.plain.tensor->type;
        if (type == SafetensorsType::kBF16) return DType::kBF16;
        return type == SafetensorsType::kF16 ? DType::kF16 : DType::kF32;
    }

    bool reads_bf16(const WeightSpec& weight) const override {
        const Located& located = at(weight);
        return !located.quantized && located.plain.tensor->type == SafetensorsType::kBF16;
    }

    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override {
        const Located& located = at(weight);
        check_inside(weight, first, out.size());
        if (located.quantized) {
            read_dequantized(*this, weight, first, out);
        } else if (weight.transposed) {
            read_transposed(weight, located.plain, first, out);
        } else {
            read_elements(located.plain, first, out);
        }
    }

    void read_bf16(const WeightSpec& weight, std::int64_t first,
                   std::span<bf16> out) const override {
        if (!reads_bf16(weight) || weight.transposed)
            return WeightReader::read_bf16(weight, first, out);
        check_inside(weight, first, out.size());
        const TensorInFile& plain = at(weight).plain;
        plain.file->file().read(
            plain.tensor->offset + static_cast<std::uint64_t>(first) * sizeof(bf16), out.data(),
            out.size_bytes());
    }

    WeightForm form(const WeightSpec& weight) const override {
        const Located& located = at(weight);
        return located.quantized ? located.quantized->form() : WeightForm{};
    }

    void read_part(const WeightSpec& weight, StoredPart part, std::size_t first,
                   std::span<std::byte> out) const override {
        const Located& located = at(weight);
        check(located.quantized.has_value(), "parts are read of quantized weights");
        located.quantized->read(part, first, out);
    }

    std::string sha256() const override {
        return sha256_with(decisive_config(config_text_, path_of("config.json")));
    }
    bool has_sha256(const std::string& recorded) const override {
        // Earlier checkpoints and stores took config.json byte by byte.
        return recorded == sha256() || recorded == sha256_with(config_text_);
    }

    std::int64_t file_bytes() const override {
        std::int64_t total = 0;
        for (const auto& [name, file] : files_)
            total += static_cast<std::int64_t>(file.file().bytes());
        return total;
    }

  private:
    std::string sha256_with(const std::string& config) const {
        Sha256 digest;
        digest.update(fmt::format("safetensors {}\n", files_.size()));
        digest.update(config);
        for (const auto& [name, file] : files_) {
            std::string header(static_cast<std::size_t>(file.header_bytes()), '\0');
            file.file().read(0, header.data(), header.size());
            digest.update(fmt::format("\n{} {}\n", name, file.file().bytes()));
            digest.update(header);
        }
        return digest.hex();
    }

    std::string path_of(std::string_view name) const { return (folder_.path() / name).string(); }

    /// Elements [first, first + out.size()) as they lie in the file.
    static void read_elements(const TensorInFile& found, std::int64_t first, std::span<float> out) {
        const GgmlTraits& traits = traits_of(plain_type(found.tensor->type));
        const auto raw = std::make_unique_for_overwrite<std::byte[]>(std::min(out.size(), kChunk) *
                                                                     traits.block_bytes);
        std::uint64_t offset =
            found.tensor->offset + static_cast<std::uint64_t>(first) * traits.block_bytes;
        for (std::size_t done = 0; done < out.size();) {
            const std::size_t count = std::min(out.size() - done, kChunk);
            found.file->file().read(offset, raw.get(), count * traits.block_bytes);
            traits.dequantize(raw.get(), static_cast<std::int64_t>(count), out.data() + done);
            offset += count * traits.block_bytes;
            done += count;
        }
    }

    /// The file has [cols, rows]: one stretch of every row of the file holds the wanted columns.
    static void read_transposed(const WeightSpec& weight, const TensorInFile& found,
                                std::int64_t first, std::span<float> out) {
        const auto end = first + static_cast<std::int64_t>(out.size());
        const std::int64_t row = first / weight.cols, last = (end + weight.cols - 1) / weight.cols;
        std::vector<float> stretch(static_cast<std::size_t>(last - row));
        for (std::int64_t c = 0; c < weight.cols; ++c) {
            read_elements(found, c * weight.rows + row, stretch);
            for (std::int64_t r = row; r < last; ++r) {
                const std::int64_t at = r * weight.cols + c;
                if (at >= first && at < end)
                    out[static_cast<std::size_t>(at - first)] =
                        stretch[static_cast<std::size_t>(r - row)];
            }
        }
    }

    const Located& at(const WeightSpec& weight) const {
        const auto it = located_.find(weight.name);
        check(it != located_.end(), "the weight belongs to the model");
        return it->second;
    }

    std::string spec_name(Role role) const {
        ModelConfig untied = config_;
        untied.tied_head = false;
        for (const auto& weights : {embedding_weights(untied), head_weights(untied)}) {
            for (const WeightSpec& weight : weights) {
                if (weight.role == role) return weight.name;
            }
        }
        throw BugError("a model has an embedding, a final norm and a head");
    }

    void open_files() {
        if (folder_.has(kSingleName)) {
            add_file(std::string(kSingleName));
            for (const auto& [name, tensor] : files_.begin()->second.tensors()) {
                all_.emplace(name, TensorInFile{&files_.begin()->second, &tensor});
            }
            return;
        }
        if (!folder_.has(kIndexName)) {
            throw UserError(fmt::format(
                "{}: found neither {} nor {}\n{}", folder_.path().string(), kSingleName, kIndexName,
                folder_.has_unfinished_download()
                    ? "A download into that folder was not finished: start hf download again."
                    : "Other formats (pickled .bin and .pt files) are never read: save the model "
                      "with safe_serialization=True."));
        }
        open_shards();
    }

    void add_file(const std::string& name) {
        if (files_.size() == kMaxShards)
            throw UserError(
                fmt::format("{}: more than {} shards", folder_.path().string(), kMaxShards));
        files_.emplace(name, SafetensorsFile(folder_.open(name)));
    }

    void open_shards() {
        const std::string origin = path_of(kIndexName);
        const boost::json::value index = parse_strict_json(folder_.open(kIndexName).text(kMaxIndex),
                                                           origin, {.bytes = kMaxIndex});
        if (!index.is_object()) throw UserError(origin + ": expected a JSON object");
        JsonKeys keys(index.get_object(), origin);
        const boost::json::object* map = keys.object("weight_map");
        if (map == nullptr || map->empty()) keys.fail("weight_map", "a map from tensors to files");
        for (const auto& [tensor, file] : *map) {
            if (!file.is_string())
                throw UserError(origin + ": \"weight_map\" must hold file names");
            const std::string name(file.get_string());
            if (!files_.contains(name)) add_file(name);
            const SafetensorsFile& shard = files_.at(name);
            const std::string_view tensor_name = tensor;
            const SafetensorsTensor* found = shard.find(tensor_name);
            if (found == nullptr) {
                throw UserError(
                    fmt::format("{}: tensor \"{}\" is not in {}", origin, tensor_name, name));
            }
            all_.emplace(tensor_name, TensorInFile{&shard, found});
        }
        for (const auto& [name, shard] : files_) {
            for (const auto& [tensor, info] : shard.tensors()) {
                const auto it = all_.find(tensor);
                if (it == all_.end() || it->second.file != &shard) {
                    throw UserError(fmt::format(
                        "{}: tensor \"{}\" of {} is not listed there, or is in two files", origin,
                        tensor, name));
                }
            }
        }
    }

    /// By the embedding, or where a file has it under the head's name only, by the last norm.
    void choose_prefix() {
        for (const Role role : {Role::kEmbed, Role::kFinalNorm}) {
            for (const Prefix& prefix : kPrefixes) {
                prefix_ = prefix;
                if (all_.contains(under(prefix, spec_name(role)))) return;
            }
        }
        throw UserError(
            fmt::format("{}: no tensor \"{}\"", folder_.path().string(), spec_name(Role::kEmbed)));
    }

    void choose_head(std::optional<bool> tied_in_store) {
        HeadFacts facts;
        facts.origin = folder_.path().string();
        facts.head_name = under(prefix_, spec_name(Role::kHead));
        facts.embedding_name = under(prefix_, spec_name(Role::kEmbed));
        facts.head = find(facts.head_name);
        facts.embedding = find(facts.embedding_name);
        facts.tied_in_config = config_.tied_head;
        facts.tied_in_store = tied_in_store;
        for (const auto& file : files_) {
            const auto& metadata = file.second.metadata();
            const auto stands_for = [&](const std::string& absent, const std::string& present) {
                const auto it = metadata.find(absent);
                return it != metadata.end() && it->second == present;
            };
            facts.tied_in_metadata |= stands_for(facts.head_name, facts.embedding_name) ||
                                      stands_for(facts.embedding_name, facts.head_name);
        }
        const HeadOfFiles found = head_of_files(facts);
        config_.tied_head = found.tied;
        if (found.stored_as_head) embedding_name_ = facts.head_name;
        if (!found.note.empty()) notes_.push_back(found.note);
    }

    /// A weight's name in the files.
    std::string name_in_files(const WeightSpec& weight) const {
        if (weight.role == Role::kEmbed && !embedding_name_.empty()) return embedding_name_;
        return under(prefix_, weight.name);
    }

    /// The file that a tensor is in.
    std::string file_of(const TensorInFile& found) const { return found.file->file().name(); }

    /// By the name in the files.
    TensorInFile find(const std::string& name) const {
        const auto it = all_.find(name);
        return it == all_.end() ? TensorInFile{} : it->second;
    }

    void locate(const std::vector<WeightSpec>& weights) {
        for (const WeightSpec& weight : weights) {
            const std::string name = name_in_files(weight);
            Located located;
            if (weight.linear) {
                const auto use = [this](const std::string& part) {
                    const TensorInFile found = find(part);
                    if (found.tensor != nullptr) used_.insert(part);
                    return found;
                };
                located.quantized = BnbWeight::find(weight, name, use, folder_.path().string());
            }
            if (!located.quantized) located.plain = plain_tensor(weight, name);
            located_.emplace(weight.name, std::move(located));
            used_.insert(name);
        }
    }

    TensorInFile plain_tensor(const WeightSpec& weight, const std::string& name) const {
        const TensorInFile found = find(name);
        if (found.tensor == nullptr) refuse_missing(name);
        std::vector<std::int64_t> expected = {weight.cols};
        if (weight.rows > 1 || weight.linear)
            expected.insert(weight.transposed ? expected.end() : expected.begin(), weight.rows);
        if (found.tensor->shape != expected) refuse_shape(weight, name, found, expected);
        const SafetensorsType type = found.tensor->type;
        if (type != SafetensorsType::kF32 && type != SafetensorsType::kF16 &&
            type != SafetensorsType::kBF16) {
            throw UserError(
                fmt::format("{}: the tensor \"{}\" has dtype {}; F32, F16 and BF16 are supported",
                            file_of(found), name, name_of(type)));
        }
        return found;
    }

    [[noreturn]] void refuse_missing(const std::string& name) const {
        const bool wrapped_in_lora = std::ranges::any_of(all_, [](const auto& entry) {
            return entry.first.find(".lora_A.") != std::string::npos ||
                   entry.first.find(".base_layer.") != std::string::npos;
        });
        const std::string where =
            files_.size() == 1 ? files_.begin()->second.file().name()
                               : fmt::format("{} ({} files)", path_of(kIndexName), files_.size());
        throw UserError(fmt::format(
            "{}: the tensor \"{}\" is missing\n{}", where, name,
            wrapped_in_lora
                ? "It holds a model with LoRA inside (lora_A, base_layer): save it again "
                  "after PEFT's merge_and_unload(), or give base and adapter apart."
                : "config.json describes a model that has it: is the download complete, "
                  "and is config.json this model's?"));
    }

    [[noreturn]] void refuse_shape(const WeightSpec& weight, const std::string& name,
                                   const TensorInFile& found,
                                   const std::vector<std::int64_t>& expected) const {
        const std::vector<std::int64_t>& shape = found.tensor->shape;
        std::string advice;
        const bool rows_only = shape.size() == 2 && shape[1] == weight.cols;
        if ((weight.role == Role::kEmbed || weight.role == Role::kHead) && rows_only) {
            advice = fmt::format(
                "\nconfig.json has vocab_size {}: if the embedding was resized, set it to {} (and "
                "save the resized tokenizer beside it).",
                config_.vocabulary, shape[0]);
        } else if (all_.contains(name + ".absmax") || found.tensor->type == SafetensorsType::kU8) {
            advice =
                "\nIt is quantized: embeddings, heads and norms are read in 16 or 32 bits only.";
        }
        throw UserError(fmt::format("{}: the tensor \"{}\" has shape [{}], expected [{}]{}",
                                    file_of(found), name, fmt::join(shape, ", "),
                                    fmt::join(expected, ", "), advice));
    }

    /// A weight of the text model that the config does not account for means that the model
    /// computes something else. A tied head may be there as well.
    void refuse_unknown() {
        const std::string head = under(prefix_, spec_name(Role::kHead));
        used_.insert(head);
        std::vector<std::string> unread;
        std::vector<std::string> modules = {
            under(prefix_, family_named(config_.family).layer_prefix)};
        for (const std::string& name : {head, under(prefix_, spec_name(Role::kFinalNorm)),
                                        under(prefix_, spec_name(Role::kEmbed))}) {
            modules.push_back(name.substr(0, name.rfind('.') + 1));
        }
        for (const auto& entry : all_) {
            const std::string& name = entry.first;
            const bool ours =
                std::any_of(modules.begin(), modules.end(),
                            [&](const std::string& module) { return name.starts_with(module); });
            if (ours && !used_.contains(name) && !is_buffer(name)) {
                throw UserError(
                    fmt::format("{}: the tensor \"{}\" is not part of a \"{}\" model as "
                                "config.json describes it",
                                file_of(entry.second), name, config_.family));
            }
            if (!ours && !used_.contains(name) && !is_known_part(name)) unread.push_back(name);
        }
        used_.clear();
        if (unread.empty()) return;
        const std::size_t shown = std::min<std::size_t>(unread.size(), 3);
        notes_.push_back(fmt::format(
            "{}: nothing reads {} of its tensors ({}{}): they are left out",
            folder_.path().string(), unread.size(), fmt::join(std::span(unread).first(shown), ", "),
            shown < unread.size() ? ", ..." : ""));
    }

    /// generation_config.json knows best where an answer ends: chat models add the end of a turn.
    void override_eos() {
        if (!folder_.has("generation_config.json")) return;
        const std::string origin = path_of("generation_config.json");
        const boost::json::value document = parse_strict_json(
            folder_.open("generation_config.json").text(kMaxConfig), origin, {.non_finite = true});
        if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
        JsonKeys keys(document.get_object(), origin);
        const SpecialIds ids = special_ids(keys, config_.vocabulary);
        if (!ids.eos.empty()) config_.eos_ids = ids.eos;
    }

    ModelFolder folder_;
    std::string config_text_;
    ModelConfig config_;
    std::map<std::string, SafetensorsFile> files_;
    std::map<std::string, TensorInFile, std::less<>> all_;
    Prefix prefix_;
    std::string embedding_name_;  ///< in the files, where it has the head's
    std::vector<std::string> notes_;
    std::unordered_map<std::string, Located> located_;
    std::set<std::string> used_;  // only while the model is opened
};

}  // namespace

std::unique_ptr<WeightReader> open_hugging_face_model(const ModelFolder& folder,
                                                      std::optional<bool> tied_in_store) {
    return std::make_unique<HuggingFaceModel>(folder, tied_in_store);
}

}  // namespace qshard
