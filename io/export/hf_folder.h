#pragma once

#include <filesystem>

#include "io/export/weight_stream.h"

namespace qshard {

/// Writes weights as a Hugging Face folder: model.safetensors, or shards of at most
/// options.max_shard_bytes with their index, every tensor in options.dtype. config.json is that of
/// `like` (a folder of the same model) with its dtype set and without quantization_config;
/// tokenizer, chat template and generation settings are copied. Files appear whole; config.json
/// comes last, so a folder without it is unfinished. UserError if `folder` holds something already.
void write_hugging_face_model(const std::filesystem::path& folder, const WeightReader& weights,
                              const std::filesystem::path& like, const ExportOptions& options);

}  // namespace qshard
