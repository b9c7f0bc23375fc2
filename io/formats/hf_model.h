#pragma once

#include <filesystem>
#include <memory>

#include "spec/weights.h"

namespace qshard {

/// The weights of a Hugging Face folder: config.json with model.safetensors or
/// model.safetensors.index.json and its shards, weights named as the family names them or behind a
/// foreign prefix ("model.language_model.").
std::unique_ptr<WeightReader> open_hugging_face_model(const std::filesystem::path& folder);

}  // namespace qshard
