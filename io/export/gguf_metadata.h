#pragma once

#include <map>
#include <string>

#include "io/formats/gguf.h"
#include "io/formats/gguf_writer.h"
#include "io/tokenizer/tokenizer.h"
#include "spec/model_config.h"

/// What a GGUF model file says before its tensors.
namespace qshard {

/// Everything that `like` says of its model and tokenizer, value for value, without what says how
/// its weights are stored.
GgufHeader gguf_metadata_like(const GgufFile& like);

/// A model in llama.cpp's keys; no tokenizer. UserError for what they cannot express (dynamic and
/// longrope positions, mixtures).
GgufHeader gguf_metadata_of(const ModelConfig& config);

/// Adds a tokenizer to it; ids of special tokens are its own, or else those of the model. Chat
/// templates by name, under the keys that llama.cpp's converter gives them.
void add_gguf_tokenizer(GgufHeader& header, const GgufTokenizerData& data,
                        const ModelConfig& config,
                        const std::map<std::string, std::string>& chat_templates);

}  // namespace qshard
