#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "io/tokenizer/tokenizer.h"
#include "spec/weights.h"

/// The door to models on disk: a GGUF file, or a Hugging Face folder with safetensors.
namespace qshard {

/// A model and what lies beside its weights.
struct ModelSource {
    std::unique_ptr<WeightReader> weights;
    std::string kind;  ///< "gguf" or "safetensors"
    std::filesystem::path path;
    std::optional<GgufTokenizerData> gguf_tokenizer;      ///< GGUF with a vocabulary
    std::string chat_template;                            ///< empty if the model has none
    std::optional<std::filesystem::path> tokenizer_json;  ///< of a folder
    std::optional<std::filesystem::path> tokenizer_config;
};

/// Opens a .gguf file, or a folder with config.json and model.safetensors or its shards. Reads
/// headers only, and checks that every weight the model needs is there with its shape and a dtype
/// that can be read, and none that it does not know. UserError for anything broken or not
/// supported. Pickle files (.bin, .pt) are never read.
ModelSource open_model_source(const std::filesystem::path& folder_or_gguf);

/// Its weights alone.
std::unique_ptr<WeightReader> open_model(const std::filesystem::path& folder_or_gguf);

}  // namespace qshard
