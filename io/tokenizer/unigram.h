#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "io/tokenizer/model.h"
#include "io/tokenizer/vocabulary.h"

namespace qshard::tok {

struct UnigramDefinition {
    Vocabulary vocabulary;
    std::vector<double> scores;  ///< log-probability by id
    std::int32_t unknown = -1;
    bool byte_fallback = false;
};

/// The most probable segmentation (Kudo 2018) by Viterbi over byte positions, in double precision;
/// the first found wins a tie.
class Unigram : public Model {
  public:
    explicit Unigram(UnigramDefinition definition);
    void encode(std::string_view word, std::vector<ModelToken>& out) const override;

  private:
    struct Step;
    void extend(std::string_view word, std::size_t begin, std::vector<Step>& best) const;
    void add_piece(std::string_view piece, std::vector<ModelToken>& out) const;

    UnigramDefinition definition_;
    double unknown_score_;
    PairTable edges_;  ///< trie: (node, byte) -> (id of the token that ends there or -1, child)
    std::array<std::int32_t, 256> byte_tokens_;
};

}  // namespace qshard::tok
