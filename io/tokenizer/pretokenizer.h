#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/regex.h"
#include "io/tokenizer/text.h"

namespace qshard::tok {

/// One stage of cutting a text into words. It sees and cuts each piece on its own, leaves out empty
/// ones, never touches added tokens, and may change the text.
class PreTokenizerStep {
  public:
    virtual ~PreTokenizerStep() = default;
    virtual void apply(Text& text, std::vector<Piece>& pieces) const = 0;
    /// Whether it has to know where in the input a piece began.
    virtual bool needs_origins() const { return false; }
};

/// A sequence of steps; empty: every piece is one word.
class PreTokenizer {
  public:
    void add(std::unique_ptr<PreTokenizerStep> step) {
        needs_origins_ = needs_origins_ || step->needs_origins();
        steps_.push_back(std::move(step));
    }
    void apply(Text& text, std::vector<Piece>& pieces) const {
        for (const auto& step : steps_) step->apply(text, pieces);
    }
    bool needs_origins() const { return needs_origins_; }

  private:
    std::vector<std::unique_ptr<PreTokenizerStep>> steps_;
    bool needs_origins_ = false;
};

/// What becomes of the matches: thrown away, pieces of their own, joined to a neighbour, or runs of
/// them as one piece.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
/// Where a marker is put before a text that does not begin with one: every piece, the one at the
/// start of the input, none.
enum class PrependScheme { kAlways, kFirst, kNever };

/// `invert` exchanges matches and what lies between them.
std::unique_ptr<PreTokenizerStep> make_split(std::unique_ptr<Matcher> matcher,
                                             SplitBehavior behavior, bool invert);
/// Puts a space before pieces that do not begin with one.
std::unique_ptr<PreTokenizerStep> make_add_prefix_space();
/// Spells every byte in GPT-2's byte alphabet.
std::unique_ptr<PreTokenizerStep> make_byte_spelling();
/// Turns spaces into `marker` and, if `split`, cuts before each.
std::unique_ptr<PreTokenizerStep> make_metaspace(std::string marker, PrependScheme scheme,
                                                 bool split);
/// Cuts before every run of `marker` that none of the tokens `across` lies across: changes no
/// tokens of a model with these Bpe::tokens_across() it.
std::unique_ptr<PreTokenizerStep> make_cut_before(std::string marker,
                                                  const std::vector<std::string>& across);

/// Every character with one of the CharClass bits is a match.
std::unique_ptr<Matcher> make_class_matcher(std::uint8_t classes);
/// Runs of word characters, and runs of what is neither word nor space: the Whitespace
/// pre-tokenizer.
std::unique_ptr<Matcher> make_word_or_symbol_matcher();

}  // namespace qshard::tok
