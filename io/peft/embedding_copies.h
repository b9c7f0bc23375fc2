#pragma once

#include <map>
#include <memory>
#include <string>

#include "io/formats/safetensors.h"
#include "spec/weights.h"

namespace qshard {

/// Whole embeddings and heads that lie in an adapter's file though nothing says they were trained:
/// PEFT's save_embedding_layers, which is also its guess after resize_token_embeddings().
struct EmbeddingCopies {
    std::shared_ptr<const SafetensorsFile> file;       ///< null if there are none
    std::map<std::string, SafetensorsTensor> tensors;  ///< by their keys in the file
};

/// Whether it is the name of an embedding's or a head's weight.
bool is_embedding_name(std::string_view key);

/// UserError unless each is the base's own, in the base's dtype or rounded as it was loaded. Other
/// numbers of rows mean a resized embedding, other values a trained one: both are more than this
/// base with this adapter.
void check_embedding_copies(const EmbeddingCopies& copies, const WeightReader& base);

}  // namespace qshard
