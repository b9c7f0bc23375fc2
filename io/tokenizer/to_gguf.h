#pragma once

#include <string>

#include "io/tokenizer/tokenizer.h"

namespace qshard {

/// A tokenizer.json as GGUF metadata for `vocabulary` ids, without the special tokens' ids.
/// UserError unless it is byte-level BPE whose pre-tokenizer llama.cpp has a name for, or was
/// converted from SentencePiece, and tokenizes a probe as the file does.
GgufTokenizerData gguf_tokenizer_of(const std::string& tokenizer_json, const std::string& origin,
                                    std::int64_t vocabulary);

}  // namespace qshard
