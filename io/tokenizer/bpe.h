#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/model.h"
#include "io/tokenizer/vocabulary.h"

namespace qshard::tok {

/// A rule: symbols `left` and `right` side by side become `merged`. Lower ranks first, leftmost
/// first among equals.
struct Merge {
    std::int32_t left, right, rank, merged;
};

struct BpeDefinition {
    Vocabulary vocabulary;
    std::vector<Merge> merges;
    std::int32_t unknown = -1;  ///< id for characters without a token; -1: drop them
    bool byte_level =
        false;  ///< words are raw bytes and the vocabulary is spelled in GPT-2's byte alphabet
    bool byte_fallback = false, fuse_unknown = false, ignore_merges = false;
    std::string continuing_prefix, word_suffix;
};

/// Byte-pair encoding. A word of n characters takes O(n log n).
class Bpe : public Model {
  public:
    explicit Bpe(BpeDefinition definition);
    void encode(std::string_view word, std::vector<ModelToken>& out) const override;
    const Vocabulary& vocabulary() const { return definition_.vocabulary; }

    /// Tokens that hold `marker` behind a different character: a word cut before a run of markers
    /// gives the same tokens where none of them lies across the cut. SentencePiece vocabularies,
    /// whose words would otherwise be whole documents, have none or a few (Gemma 3: ">▁</").
    /// Nothing if there are more than 16, or words cannot be cut for another reason.
    std::optional<std::vector<std::string>> tokens_across(std::string_view marker) const;

  private:
    void add_initial_symbols(std::string_view word, std::vector<ModelToken>& symbols) const;
    void add_byte_symbols(std::string_view word, std::vector<ModelToken>& symbols) const;
    struct Pending;
    void add_symbol(std::string_view text, std::uint32_t bytes, Pending& pending,
                    std::vector<ModelToken>& symbols) const;

    BpeDefinition definition_;
    PairTable pairs_;
    Vocabulary raw_;  ///< byte-level vocabulary spelled in raw bytes, for ignore_merges
    std::array<std::int32_t, 256> byte_tokens_;  ///< id of <0xHH>, or -1
    std::array<std::int32_t, 256>
        initial_symbols_;  ///< id of a byte's character (ASCII only unless byte_level), or -1
    bool has_all_byte_symbols_ = false;
};

/// The raw bytes a byte-level token stands for; nothing if it has a character outside the byte
/// alphabet.
std::optional<std::string> byte_level_bytes(std::string_view token);

}  // namespace qshard::tok
