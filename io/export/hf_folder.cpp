#include "io/export/hf_folder.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include "base/error.h"
#include "io/checkpoint/json_text.h"
#include "io/checkpoint/result_file.h"
#include "io/export/hf_config.h"
#include "io/formats/input_file.h"
#include "io/formats/model_folder.h"
#include "io/formats/safetensors_writer.h"
#include "io/tokenizer/to_json.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::size_t kMaxCarriedBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

/// What is of the model but not its weights or config.json.
constexpr std::array<std::string_view, 11> kCarried = {"generation_config.json",
                                                       "tokenizer.json",
                                                       "tokenizer_config.json",
                                                       "special_tokens_map.json",
                                                       "added_tokens.json",
                                                       "vocab.json",
                                                       "merges.txt",
                                                       "tokenizer.model",
                                                       "chat_template.jinja",
                                                       "chat_template.json",
                                                       "LICENSE"};

/// Where transformers keeps the templates that are not the default.
constexpr const char* kTemplateFolder = "additional_chat_templates";

SafetensorsType type_of(DType dtype) {
    return dtype == DType::kBF16  ? SafetensorsType::kBF16
           : dtype == DType::kF16 ? SafetensorsType::kF16
                                  : SafetensorsType::kF32;
}

/// Weights of one file.
using Shard = std::vector<WeightSpec>;

std::vector<Shard> shards_of(const ModelConfig& config, const ExportOptions& options) {
    std::vector<Shard> shards(1);
    std::uint64_t bytes = 0;
    for (const PlacedWeight& placed : all_weights(config)) {
        const auto next =
            static_cast<std::uint64_t>(placed.weight.count()) * bytes_of(options.dtype);
        if (!shards.back().empty() && bytes + next > options.max_shard_bytes) {
            shards.emplace_back();
            bytes = 0;
        }
        shards.back().push_back(placed.weight);
        bytes += next;
    }
    return shards;
}

void write_shard(const fs::path& file, Shard shard, DType dtype, WeightStream& stream) {
    std::ranges::sort(shard, {}, &WeightSpec::name);  // one dtype: the reference writer's order
    std::vector<SafetensorsEntry> entries;
    for (const WeightSpec& weight : shard) {
        std::vector<std::int64_t> shape = shape_of(weight);
        if (weight.transposed) std::reverse(shape.begin(), shape.end());
        entries.push_back({weight.name, type_of(dtype), shape});
    }
    const std::string header = safetensors_header(entries);
    PendingFile pending(file);
    pending.write(std::as_bytes(std::span(header)));
    for (const WeightSpec& weight : shard)
        stream.write(weight, dtype, {.transposed = weight.transposed}, pending);
    pending.finish();
    pending.rename();
}

void write_weights(const fs::path& folder, const WeightReader& weights,
                   const ExportOptions& options) {
    const std::vector<Shard> shards = shards_of(weights.config(), options);
    WeightStream stream(weights, options);
    if (shards.size() == 1) {
        write_shard(folder / "model.safetensors", shards[0], options.dtype, stream);
        return;
    }
    json::object map;
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < shards.size(); ++i) {
        const std::string name =
            fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
        write_shard(folder / name, shards[i], options.dtype, stream);
        for (const WeightSpec& weight : shards[i]) {
            map[weight.name] = name;
            bytes += weight.count() * static_cast<std::int64_t>(bytes_of(options.dtype));
        }
    }
    const json::object index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", map}};
    write_file_atomic(folder / "model.safetensors.index.json", python_json(index) + "\n");
}

/// config.json of the folder `like` for these weights.
json::object config_like(const fs::path& like, DType dtype) {
    const std::string origin = (like / "config.json").string();
    const json::value document =
        parse_strict_json(InputFile::beneath(like, "config.json").text(kMaxConfigBytes), origin,
                          {.non_finite = true});
    if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
    json::object config = document.get_object();
    if (const json::value* text = config.if_contains("text_config"); text && text->is_object()) {
        const json::object inner = text->get_object();
        config = inner;
        config["architectures"] =
            json::array{json::value(class_name(config.at("model_type").as_string()))};
        for (const char* key : {"eos_token_id", "bos_token_id", "pad_token_id"}) {
            const json::value* outer = document.get_object().if_contains(key);
            if (outer != nullptr && !config.contains(key)) config[key] = *outer;
        }
    }
    config.erase("auto_map");  // names files of code, which are not carried
    config.erase("quantization_config");
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name_of(dtype);
    return config;
}

/// tokenizer_config.json of a GGUF model.
json::object tokenizer_config(const GgufTokenizerData& data,
                              const std::map<std::string, std::string>& chat_templates) {
    json::object object = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                           {"clean_up_tokenization_spaces", false}};
    const auto token = [&](const char* key, const std::optional<std::int32_t>& id) {
        if (id) object[key] = data.tokens.at(static_cast<std::size_t>(*id));
    };
    token("bos_token", data.bos);
    token("eos_token", data.eos);
    token("unk_token", data.unk);
    token("pad_token", data.pad);
    const auto only = chat_templates.find("default");
    if (only != chat_templates.end() && chat_templates.size() == 1) {
        object["chat_template"] = only->second;
    } else if (!chat_templates.empty()) {
        json::array named;
        for (const auto& [name, text] : chat_templates)
            named.push_back(json::object{{"name", name}, {"template", text}});
        object["chat_template"] = std::move(named);
    }
    return object;
}

json::object generation_config(const ModelConfig& config) {
    json::object object;
    if (config.bos_id) object["bos_token_id"] = *config.bos_id;
    if (config.pad_id) object["pad_token_id"] = *config.pad_id;
    if (!config.eos_ids.empty())
        object["eos_token_id"] = json::array(config.eos_ids.begin(), config.eos_ids.end());
    return object;
}

}  // namespace

FolderFiles folder_files_like(const fs::path& like, DType dtype) {
    FolderFiles files;
    files.config = config_like(like, dtype);
    for (std::string_view name : kCarried) {
        if (!fs::exists(like / name)) continue;
        files.others.emplace(name, InputFile::beneath(like, name).text(kMaxCarriedBytes));
    }
    const ModelFolder folder(like);
    for (const std::string& name : folder.names_in(kTemplateFolder)) {
        if (!name.ends_with(".jinja")) continue;
        files.others.emplace(fmt::format("{}/{}", kTemplateFolder, name),
                             folder.open_in(kTemplateFolder, name).text(kMaxCarriedBytes));
    }
    return files;
}

FolderFiles folder_files_of_gguf(const ModelSource& source, DType dtype) {
    const ModelConfig& config = source.weights->config();
    FolderFiles files;
    files.config = hf_config_of(config, dtype);
    files.others["generation_config.json"] = python_json(generation_config(config)) + "\n";
    if (!source.gguf_tokenizer) return files;
    try {
        files.others["tokenizer.json"] = tokenizer_json_of(*source.gguf_tokenizer);
    } catch (const UserError&) {  // trained with model.tokenizer, or on token ids
        return files;
    }
    files.others["tokenizer_config.json"] =
        python_json(tokenizer_config(*source.gguf_tokenizer, source.chat_templates)) + "\n";
    return files;
}

void write_hugging_face_model(const fs::path& folder, const WeightReader& weights,
                              const FolderFiles& files, const ExportOptions& options) {
    check_result_folder(folder);
    make_folder(folder);
    write_weights(folder, weights, options);
    for (const auto& [name, content] : files.others) {
        const fs::path file = folder / name;
        if (file.parent_path() != folder) make_folder(file.parent_path());
        write_file_atomic(file, content);
    }
    write_file_atomic(folder / "config.json", python_json(files.config) + "\n");
}

}  // namespace qshard
