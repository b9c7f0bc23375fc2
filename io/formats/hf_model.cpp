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

class HuggingFaceModel : public WeightReader {
  public:
    explicit HuggingFaceModel(const ModelFolder& folder) : folder_(folder) {
        config_text_ = folder.open("config.json").text(kMaxConfig);
        config_ = model_config_from_json(config_text_, path_of("config.json"));
        open_files();
        choose_prefix();
        if (find(under(prefix_, spec_name(Role::kHead))).tensor == nullptr)
            config_.tied_head = true;
        locate(embedding_weights(config_));
        for (std::int64_t l = 0; l < config_.layers; ++l) locate(layer_weights(config_, l));
        locate(head_weights(config_));
        refuse_unknown();
        override_eos();
    }

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
                "{}: found neither {} nor {}\nOther formats (pickled .bin and .pt files) are never "
                "read: save the model with safe_serialization=True.",
                folder_.path().string(), kSingleName, kIndexName));
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

    void choose_prefix() {
        const std::string embedding = spec_name(Role::kEmbed);
        for (const Prefix& prefix : kPrefixes) {
            prefix_ = prefix;
            if (all_.contains(under(prefix, embedding))) return;
        }
        throw UserError(fmt::format("{}: no tensor \"{}\"", folder_.path().string(), embedding));
    }

    /// By the name in the files.
    TensorInFile find(const std::string& name) const {
        const auto it = all_.find(name);
        return it == all_.end() ? TensorInFile{} : it->second;
    }

    void locate(const std::vector<WeightSpec>& weights) {
        for (const WeightSpec& weight : weights) {
            const std::string name = under(prefix_, weight.name);
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
        if (found.tensor == nullptr)
            throw UserError(
                fmt::format("{}: the tensor \"{}\" is missing", folder_.path().string(), name));
        std::vector<std::int64_t> expected = {weight.cols};
        if (weight.rows > 1 || weight.linear)
            expected.insert(weight.transposed ? expected.end() : expected.begin(), weight.rows);
        if (found.tensor->shape != expected) {
            throw UserError(fmt::format(
                "{}: the tensor \"{}\" has shape [{}], expected [{}]", folder_.path().string(),
                name, fmt::join(found.tensor->shape, ", "), fmt::join(expected, ", ")));
        }
        const SafetensorsType type = found.tensor->type;
        if (type != SafetensorsType::kF32 && type != SafetensorsType::kF16 &&
            type != SafetensorsType::kBF16) {
            throw UserError(
                fmt::format("{}: the tensor \"{}\" has dtype {}; F32, F16 and BF16 are supported",
                            folder_.path().string(), name, name_of(type)));
        }
        return found;
    }

    /// A weight of the text model that the config does not account for means that the model
    /// computes something else. A tied head may be there as well.
    void refuse_unknown() {
        const std::string head = under(prefix_, spec_name(Role::kHead));
        used_.insert(head);
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
                                folder_.path().string(), name, config_.family));
            }
        }
        used_.clear();
    }

    /// generation_config.json knows best where an answer ends: chat models add the end of a turn.
    void override_eos() {
        if (!folder_.has("generation_config.json")) return;
        const std::string origin = path_of("generation_config.json");
        const boost::json::value document = parse_strict_json(
            folder_.open("generation_config.json").text(kMaxConfig), origin, {.non_finite = true});
        const boost::json::value* eos =
            document.is_object() ? document.get_object().if_contains("eos_token_id") : nullptr;
        if (eos == nullptr || eos->is_null()) return;
        std::vector<std::int32_t> ids;
        const auto add = [&](const boost::json::value& id) {
            if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= config_.vocabulary) {
                throw UserError(origin + ": \"eos_token_id\" must be a token id or a list of them");
            }
            ids.push_back(static_cast<std::int32_t>(id.get_int64()));
        };
        if (eos->is_array()) {
            for (const boost::json::value& id : eos->get_array()) add(id);
        } else {
            add(*eos);
        }
        config_.eos_ids = ids;
    }

    ModelFolder folder_;
    std::string config_text_;
    ModelConfig config_;
    std::map<std::string, SafetensorsFile> files_;
    std::map<std::string, TensorInFile, std::less<>> all_;
    Prefix prefix_;
    std::unordered_map<std::string, Located> located_;
    std::set<std::string> used_;  // only while the model is opened
};

}  // namespace

std::unique_ptr<WeightReader> open_hugging_face_model(const ModelFolder& folder) {
    return std::make_unique<HuggingFaceModel>(folder);
}

}  // namespace qshard
