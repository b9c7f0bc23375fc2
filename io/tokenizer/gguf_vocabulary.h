#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/tokenizer.h"

/// What the lists of a GGUF tokenizer mean.
namespace qshard::tok {

/// tokenizer.ggml.token_type.
enum TokenType : std::int32_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
};

/// kNormal if the file has no types.
std::int32_t gguf_token_type(const GgufTokenizerData& data, std::size_t id);

/// Control, user-defined and unknown tokens: found in a text before it is tokenized.
std::vector<AddedToken> gguf_added_tokens(const GgufTokenizerData& data);

/// What the model itself may produce.
Vocabulary gguf_model_vocabulary(const GgufTokenizerData& data);

/// SentencePiece joins the two neighbours whose union has the best score. As BPE: every way to cut
/// a token of `vocabulary` in two is a merge, ranked by the token's score, equal scores sharing a
/// rank. By token, each of them with the shortest left part first.
std::vector<Merge> gguf_scored_merges(const GgufTokenizerData& data, const Vocabulary& vocabulary);

}  // namespace qshard::tok
