#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/decoder.h"
#include "io/tokenizer/model.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/pretokenizer.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/vocabulary.h"

namespace qshard {

/// A tokenizer is a pipeline: added tokens, normalizer, added tokens again, pre-tokenizer, model,
/// post-processor.
struct Tokenizer::State {
    tok::Vocabulary vocabulary;  ///< the model's tokens and the added ones
    tok::AddedTokens added;
    tok::Normalizer normalizer;
    tok::PreTokenizer pre_tokenizer;
    std::unique_ptr<tok::Model> model;
    std::vector<std::int32_t> prefix, suffix;  ///< what the post-processor puts around a text
    tok::Decoder decoder;
    std::string digest;
    std::uint64_t serial = 0;  ///< tells tokenizers apart in a thread's word cache
};

namespace tok {

/// The marker of SentencePiece vocabularies for a space: U+2581.
inline constexpr const char* kSpaceMarker = "\u2581";

/// Never 0 and never twice the same.
std::uint64_t next_serial();

/// Registers added tokens with the normalizer that is already in `state`, and their ids in its
/// vocabulary.
void set_added_tokens(Tokenizer::State& state, std::vector<AddedToken> tokens);

}  // namespace tok
}  // namespace qshard
