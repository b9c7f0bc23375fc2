#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/regex.h"
#include "io/tokenizer/text.h"

namespace qshard::tok {

/// One change of a text before it is cut into words.
class NormalizerStep {
  public:
    virtual ~NormalizerStep() = default;
    virtual void apply(Text& text) const = 0;
};

/// A sequence of steps; empty: the text as it is.
class Normalizer {
  public:
    void add(std::unique_ptr<NormalizerStep> step) { steps_.push_back(std::move(step)); }
    void apply(Text& text) const {
        for (const auto& step : steps_) step->apply(text);
    }

  private:
    std::vector<std::unique_ptr<NormalizerStep>> steps_;
};

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

std::unique_ptr<NormalizerStep> make_unicode_form(UnicodeForm form);
std::unique_ptr<NormalizerStep> make_lowercase();
std::unique_ptr<NormalizerStep> make_strip(bool left, bool right);
/// Removes every mark (\p{M}); meant to follow NFD.
std::unique_ptr<NormalizerStep> make_strip_accents();
std::unique_ptr<NormalizerStep> make_replace(std::unique_ptr<Matcher> matcher, std::string content);
/// Puts `content` before a text that is not empty.
std::unique_ptr<NormalizerStep> make_prepend(std::string content);

}  // namespace qshard::tok
