#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/text.h"
#include "io/tokenizer/vocabulary.h"

namespace qshard::tok {

class Normalizer;

struct AddedToken {
    std::int32_t id = 0;
    std::string content;
    bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

/// Finds a fixed set of strings in a text: leftmost, then longest.
class TokenFinder {
  public:
    /// `index` is what find() reports. The first of two equal strings wins; empty strings are
    /// ignored.
    void add(std::string_view content, std::int32_t index);
    struct Match {
        std::size_t begin, end;
        std::int32_t index;  ///< -1: none
    };
    Match find(std::string_view text, std::size_t from) const;

  private:
    struct Node {
        std::int32_t index = -1;
        std::vector<std::pair<unsigned char, std::int32_t>> children;  ///< sorted by byte
    };
    std::vector<Node> nodes_{1};
    std::array<bool, 256> starts_{};
};

/// Tokens located in the text itself, before the model sees it.
class AddedTokens {
  public:
    AddedTokens() = default;
    AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer);

    const std::vector<AddedToken>& tokens() const { return tokens_; }
    bool is_special(std::int32_t id) const {
        return id >= 0 && static_cast<std::size_t>(id) < special_.size() && special_[id];
    }
    /// Cuts `text` into added tokens and what lies between them, leaving out empty pieces.
    /// `normalized` picks the tokens that are looked for after normalization or those before;
    /// `split_special` leaves special tokens as text.
    std::vector<Piece> cut(std::string_view text, bool normalized, bool split_special) const;

  private:
    std::vector<AddedToken> tokens_;
    std::vector<bool> special_;
    TokenFinder raw_, normalized_;
};

}  // namespace qshard::tok
