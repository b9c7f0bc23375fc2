#include "io/tokenizer/word_pattern.h"

#include <limits>

#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

// The three patterns differ in these points only.
struct WordRules {
    bool any_prefix;  // letters take any one character before them, and contractions ignore case;
                      // else a space
    int max_digits;   // numbers are cut at so many; 0: no limit, and they take a space before them
};

bool is_line_break(char c) {
    return c == '\r' || c == '\n';
}

// Walks one text. Every alternative is tried in the order of the pattern at the current place;
// together they match any character, so the words tile the text.
class WordScanner {
  public:
    WordScanner(std::string_view text, WordRules rules)
        : begin_(text.data()),
          end_(text.data() + text.size()),
          classes_(char_classes()),
          rules_(rules) {}

    void run(std::vector<Range>& words) const {
        for (const char* p = begin_; p < end_;) {
            const char* word_end = match(p);
            words.push_back({static_cast<std::uint32_t>(p - begin_),
                             static_cast<std::uint32_t>(word_end - begin_)});
            p = word_end;
        }
    }

  private:
    struct Char {
        std::uint8_t classes;
        std::uint8_t bytes;
    };
    Char at(const char* p) const {
        if (p >= end_) return {0, 0};
        const DecodedChar c = decode_char(p);
        return {classes_[c.code], static_cast<std::uint8_t>(c.bytes)};
    }
    static bool is_other(Char c) {
        return c.bytes > 0 && !(c.classes & (kLetter | kNumber | kSpace));
    }

    const char* skip(const char* p, std::uint8_t wanted,
                     int limit = std::numeric_limits<int>::max()) const {
        for (Char c = at(p); limit > 0 && (c.classes & wanted); c = at(p), --limit) p += c.bytes;
        return p;
    }

    const char* skip_other(const char* p) const {
        for (Char c = at(p); is_other(c); c = at(p)) p += c.bytes;
        if (rules_.any_prefix) {
            while (p < end_ && is_line_break(*p)) ++p;
        }
        return p;
    }

    const char* match(const char* p) const {
        if (*p == '\'') {
            if (const int bytes = contraction(p + 1)) return p + 1 + bytes;
        }
        const Char first = at(p);
        const char* after = p + first.bytes;
        if (first.classes & kLetter) return skip(after, kLetter);
        if (first.classes & kNumber) {
            return rules_.max_digits == 0 ? skip(after, kNumber)
                                          : skip(after, kNumber, rules_.max_digits - 1);
        }
        const Char second = at(after);
        if ((second.classes & kLetter) && (rules_.any_prefix ? !is_line_break(*p) : *p == ' ')) {
            return skip(after, kLetter);
        }
        if (*p == ' ' && (second.classes & kNumber) && rules_.max_digits == 0)
            return skip(after, kNumber);
        if (*p == ' ' && is_other(second)) return skip_other(after);
        if (is_other(first)) return skip_other(p);
        return spaces(p);
    }

    // \s*[\r\n]+ where the rules have it, then \s+(?!\S)|\s+ : all of a run but the character that
    // the next word takes.
    const char* spaces(const char* p) const {
        const char* last = p;
        const char* line_end = nullptr;
        const char* q = p;
        for (Char c = at(q); c.classes & kSpace; c = at(q)) {
            if (is_line_break(*q)) line_end = q + 1;
            last = q;
            q += c.bytes;
        }
        if (rules_.any_prefix && line_end != nullptr) return line_end;
        return q == end_ || last == p ? q : last;
    }

    // Bytes of s t re ve m ll d after an apostrophe; 0 if none. With folding, U+017F is an s.
    int contraction(const char* p) const {
        const auto letter = [this, p](int i) {
            if (p + i >= end_) return '\0';
            const char c = p[i];
            return rules_.any_prefix && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
        };
        switch (letter(0)) {
            case 's':
            case 't':
            case 'm':
            case 'd':
                return 1;
            case 'r':
            case 'v':
                return letter(1) == 'e' ? 2 : 0;
            case 'l':
                return letter(1) == 'l' ? 2 : 0;
            case '\xC5':
                return rules_.any_prefix && letter(1) == '\xBF' ? 2 : 0;
            default:
                return 0;
        }
    }

    const char *begin_, *end_;
    const std::uint8_t* classes_;
    WordRules rules_;
};

class WordPattern : public Matcher {
  public:
    explicit WordPattern(WordRules rules) : rules_(rules) {}
    void find(std::string_view text, std::vector<Range>& matches) const override {
        WordScanner(text, rules_).run(matches);
    }

  private:
    WordRules rules_;
};

}  // namespace

std::unique_ptr<Matcher> make_pattern(std::string_view pattern) {
    if (pattern == kGpt2Pattern) return std::make_unique<WordPattern>(WordRules{false, 0});
    if (pattern == kLlama3Pattern) return std::make_unique<WordPattern>(WordRules{true, 3});
    if (pattern == kQwen2Pattern) return std::make_unique<WordPattern>(WordRules{true, 1});
    return make_regex(pattern);
}

}  // namespace qshard::tok
