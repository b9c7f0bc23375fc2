#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <map>
#include <string>

#include "io/export/weight_stream.h"
#include "io/formats/model_reader.h"

namespace qshard {

/// What a Hugging Face folder has beside its weights.
struct FolderFiles {
    boost::json::object config;  ///< config.json
    std::map<std::string, std::string>
        others;  ///< by name below the folder: tokenizer, chat templates, generation...
};

/// Those of the folder `like`, for weights of `dtype` that are not quantized. Of a multimodal model
/// the text model's.
FolderFiles folder_files_like(const std::filesystem::path& like, DType dtype);
/// The same made from a GGUF model. A tokenizer that has no tokenizer.json (SentencePiece) is left
/// out: copy the original's.
FolderFiles folder_files_of_gguf(const ModelSource& source, DType dtype);

/// Writes weights as a Hugging Face folder: model.safetensors, or shards of at most
/// options.max_shard_bytes with their index, every tensor in options.dtype, and `files`. Each file
/// appears whole; config.json comes last, so a folder without it is unfinished. UserError if
/// `folder` holds something already.
void write_hugging_face_model(const std::filesystem::path& folder, const WeightReader& weights,
                              const FolderFiles& files, const ExportOptions& options);

}  // namespace qshard
