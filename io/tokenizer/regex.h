#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qshard::tok {

struct Range {
    std::uint32_t begin, end;
};

/// Finds the parts of a text that a pre-tokenizer, normalizer or decoder acts on.
class Matcher {
  public:
    virtual ~Matcher() = default;
    /// Appends the matches in `text` from left to right; they do not overlap.
    virtual void find(std::string_view text, std::vector<Range>& matches) const = 0;
};

/// A pattern in Oniguruma's syntax as tokenizer.json files have it, run by PCRE2. UserError if the
/// pattern is malformed or uses what the two engines read differently, and while matching if it
/// needs more steps than any sane pattern does.
std::unique_ptr<Matcher> make_regex(std::string_view pattern);

/// Occurrences of a string; none if it is empty.
std::unique_ptr<Matcher> make_literal(std::string literal);

/// Rewrites an Oniguruma pattern for PCRE2 with UTF and UCP: \s \w \h \b and their complements
/// become explicit, since the engines disagree on them; nested classes, intersections and
/// possessive intervals are refused.
std::string oniguruma_to_pcre2(std::string_view pattern);

}  // namespace qshard::tok
