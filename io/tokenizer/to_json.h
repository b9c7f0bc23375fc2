#pragma once

#include <string>

#include "io/tokenizer/tokenizer.h"

namespace qshard {

/// The GGUF file's tokenizer as tokenizer.json. Byte-level BPE only (tokenizer.ggml.model "gpt2"):
/// UserError for others, whose merges the file does not have.
std::string tokenizer_json_of(const GgufTokenizerData& data);

}  // namespace qshard
