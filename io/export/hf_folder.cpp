#include "io/export/hf_folder.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include "base/error.h"
#include "io/checkpoint/json_text.h"
#include "io/formats/input_file.h"
#include "io/formats/safetensors_writer.h"
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

SafetensorsType type_of(DType dtype) {
    return dtype == DType::kBF16  ? SafetensorsType::kBF16
           : dtype == DType::kF16 ? SafetensorsType::kF16
                                  : SafetensorsType::kF32;
}

std::string_view torch_name(DType dtype) {
    return dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
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

/// config.json of the folder `like` for these weights. The text model alone is written of a
/// multimodal one.
std::string config_text(const fs::path& like, DType dtype) {
    const std::string origin = (like / "config.json").string();
    json::value document =
        parse_strict_json(InputFile::beneath(like, "config.json").text(kMaxConfigBytes), origin,
                          {.non_finite = true});
    json::object* object = document.if_object();
    if (object == nullptr) throw UserError(origin + ": expected a JSON object");
    if (const json::value* text = object->if_contains("text_config"); text && text->is_object()) {
        json::object inner = text->get_object();
        inner.erase("architectures");
        document = std::move(inner);
        object = &document.get_object();
    }
    object->erase("quantization_config");
    const bool version5 = object->contains("dtype");
    (*object)[version5 ? "dtype" : "torch_dtype"] = torch_name(dtype);
    return python_json(document) + "\n";
}

}  // namespace

void write_hugging_face_model(const fs::path& folder, const WeightReader& weights,
                              const fs::path& like, const ExportOptions& options) {
    make_folder(folder);
    if (!fs::is_empty(folder)) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("{} is not empty; name a new folder for the model", folder.string()));
    }
    const std::string config = config_text(like, options.dtype);
    write_weights(folder, weights, options);
    for (std::string_view name : kCarried) {
        if (!fs::exists(like / name)) continue;
        write_file_atomic(folder / name, InputFile::beneath(like, name).text(kMaxCarriedBytes));
    }
    write_file_atomic(folder / "config.json", config);
}

}  // namespace qshard
