#pragma once

#include <string>

#include "io/tokenizer/tokenizer.h"

namespace qshard {

/// The GGUF file's tokenizer as tokenizer.json: byte-level BPE, or SentencePiece's pieces with the
/// merges that their scores stand for. UserError if Tokenizer::from_gguf() does not take it.
std::string tokenizer_json_of(const GgufTokenizerData& data);

}  // namespace qshard
