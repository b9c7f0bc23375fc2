#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "io/formats/input_file.h"
#include "io/tokenizer/tokenizer.h"
#include "spec/weights.h"

/// The door to models on disk: a GGUF file (or the first of several), a Hugging Face folder with
/// safetensors, or a weight store.
namespace qshard {

/// A text file beside the weights.
struct ModelText {
    std::string origin;  ///< for messages
    std::string text;
};

/// A model and what lies beside its weights.
struct ModelSource {
    std::unique_ptr<WeightReader> weights;
    std::string kind;  ///< "gguf", "safetensors" or "store"
    std::filesystem::path path;
    std::optional<GgufTokenizerData> gguf_tokenizer;  ///< GGUF with a vocabulary
    /// By name: "default", "tool_use", ...; empty if the model has none.
    std::map<std::string, std::string> chat_templates;
    std::optional<ModelText> tokenizer_json;  ///< of a folder
    std::optional<ModelText> tokenizer_config, special_tokens_map;
};

/// Opens a .gguf file (or the first of several), a weight store, or a folder with config.json and
/// model.safetensors or its shards. Reads headers only, and checks that every weight the model
/// needs is there with its shape and a dtype that can be read, and none that it does not know.
/// UserError for anything broken or not supported. Pickle files (.bin, .pt) are never read. With a
/// log, notes what is read; a weight store that keeps that opens as the model does.
ModelSource open_model_source(const std::filesystem::path& path,
                              const std::shared_ptr<ReadLog>& log = nullptr);

/// Its weights alone.
std::unique_ptr<WeightReader> open_model(const std::filesystem::path& path);

}  // namespace qshard
