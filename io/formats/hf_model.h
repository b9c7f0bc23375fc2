#pragma once

#include <memory>
#include <optional>

#include "io/formats/model_folder.h"
#include "spec/weights.h"

namespace qshard {

/// The weights of a Hugging Face folder: config.json with model.safetensors or
/// model.safetensors.index.json and its shards, weights named as the family names them or behind a
/// foreign prefix ("model.language_model."). Linears that bitsandbytes quantized (NF4, FP4, int8)
/// are recognized one by one, by the tensors beside them, and can be had as they are.
/// A weight store, which keeps headers only, says what head was found when it was made.
std::unique_ptr<WeightReader> open_hugging_face_model(
    const ModelFolder& folder, std::optional<bool> tied_in_store = std::nullopt);

}  // namespace qshard
