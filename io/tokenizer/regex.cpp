#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/tokenizer/regex.h"

#include <pcre2.h>

#include <array>
#include <utility>

#include "base/error.h"
#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

// Contents of a character class. White_Space, and Oniguruma's \w: letters, marks, decimal digits,
// connectors.
constexpr const char* kSpaces =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr const char* kNotSpaces =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr const char* kWords =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})"
    R"(\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
constexpr const char* kHex = "0-9A-Fa-f";

constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapLimitKib = 64 << 10;

class Translator {
  public:
    explicit Translator(std::string_view pattern) : pattern_(pattern) {}

    std::string run() {
        while (at_ < pattern_.size()) {
            const char c = pattern_[at_];
            if (c == '\\') {
                escape();
            } else if (c == '[') {
                character_class();
            } else if (c == '(') {
                group();
            } else if (c == '{' && is_interval()) {
                interval();
            } else {
                out_ += c;
                ++at_;
            }
        }
        return std::move(out_);
    }

  private:
    [[noreturn]] void refuse(const std::string& what) const {
        throw UserError(fmt::format("regular expression \"{}\": {} is not supported at byte {}",
                                    pattern_, what, at_));
    }
    char peek(std::size_t ahead) const {
        return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
    }

    void escape() {
        const char c = peek(1);
        at_ += 2;
        const std::string word = fmt::format("[{}]", kWords);
        switch (c) {
            case 's':
                out_ += fmt::format("[{}]", kSpaces);
                break;
            case 'S':
                out_ += fmt::format("[{}]", kNotSpaces);
                break;
            case 'w':
                out_ += word;
                break;
            case 'W':
                out_ += fmt::format("[^{}]", kWords);
                break;
            case 'h':
                out_ += fmt::format("[{}]", kHex);
                break;
            case 'H':
                out_ += fmt::format("[^{}]", kHex);
                break;
            case 'b':
                out_ += fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
                break;
            case 'B':
                out_ += fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
                break;
            case '\0':
                refuse("a backslash at the end");
            default:
                shared_escape(c);
        }
    }

    // Escapes that mean the same in both, inside a class and outside.
    void shared_escape(char c) {
        static constexpr std::string_view kSame = "dDpPnrtfvaxAzZGe0123456789k";
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (letter && kSame.find(c) == std::string_view::npos) refuse(fmt::format("\\{}", c));
        // Vertical tab alone in Oniguruma; any vertical space in PCRE2.
        if (c == 'v') {
            out_ += "\\x{b}";
        } else {
            out_ += '\\';
            out_ += c;
        }
    }

    void character_class() {
        out_ += pattern_[at_++];
        if (peek(0) == '^') out_ += pattern_[at_++];
        if (peek(0) == ']') refuse("an empty character class or a bracket that opens one");
        while (peek(0) != ']') {
            if (at_ >= pattern_.size()) refuse("an unterminated character class");
            const char c = pattern_[at_];
            if (c == '&' && peek(1) == '&') refuse("class intersection &&");
            if (c == '[' && peek(1) != ':') refuse("a nested character class");
            if (c == '[') {
                const std::size_t end = pattern_.find(":]", at_ + 2);
                if (end == std::string_view::npos) refuse("a nested character class");
                out_.append(pattern_.substr(at_, end + 2 - at_));
                at_ = end + 2;
            } else if (c == '\\') {
                class_escape();
            } else {
                out_ += c;
                ++at_;
            }
        }
        out_ += pattern_[at_++];
    }

    void class_escape() {
        const char c = peek(1);
        if (c == 'W' || c == 'H' || c == 'B') refuse(fmt::format("\\{} in a character class", c));
        at_ += 2;
        switch (c) {
            case 's':
                out_ += kSpaces;
                break;
            case 'S':
                out_ += kNotSpaces;
                break;
            case 'w':
                out_ += kWords;
                break;
            case 'h':
                out_ += kHex;
                break;
            case 'b':
                out_ += "\\x{8}";
                break;
            case '\0':
                refuse("a backslash at the end");
            default:
                shared_escape(c);
        }
    }

    // Ruby's (?m) lets the dot match a newline, which is PCRE2's (?s).
    void group() {
        out_ += pattern_[at_++];
        if (peek(0) != '?') return;
        out_ += pattern_[at_++];
        const char c = peek(0);
        if (c != '-' && (c < 'a' || c > 'z')) {
            if (c == '~' || c == '(' || c == '{') refuse("this kind of group");
            return;
        }
        for (; peek(0) != ':' && peek(0) != ')'; ++at_) {
            const char flag = peek(0);
            if (flag != 'i' && flag != 'm' && flag != 'x' && flag != '-')
                refuse("this group option");
            out_ += flag == 'm' ? 's' : flag;
        }
    }

    bool is_interval() const {
        const std::size_t end = pattern_.find('}', at_);
        return end != std::string_view::npos && end > at_ + 1 &&
               pattern_.substr(at_ + 1, end - at_ - 1).find_first_not_of("0123456789,") ==
                   std::string_view::npos;
    }

    void interval() {
        const std::size_t end = pattern_.find('}', at_);
        const std::string_view body = pattern_.substr(at_ + 1, end - at_ - 1);
        const bool exact = body.find(',') == std::string_view::npos;
        at_ = end + 1;
        // In Oniguruma {n,m}+ repeats the interval and {n}? makes it optional.
        if (peek(0) == '+') refuse("'+' after an interval");
        if (peek(0) == '?' && exact) refuse("'?' after an exact interval");
        out_ += fmt::format("{{{}{}}}", body.front() == ',' ? "0" : "", body);
    }

    std::string_view pattern_;
    std::size_t at_ = 0;
    std::string out_;
};

template <class T, void (*kFree)(T*)>
struct Free {
    void operator()(T* p) const { kFree(p); }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code, pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data, pcre2_match_data_free>>;
using MatchContext =
    std::unique_ptr<pcre2_match_context, Free<pcre2_match_context, pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack, pcre2_jit_stack_free>>;

std::string pcre2_message(int code) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(code, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
}

// Per-thread working memory: matching itself allocates nothing.
struct MatchState {
    MatchData data{pcre2_match_data_create(1, nullptr)};
    MatchContext context{pcre2_match_context_create(nullptr)};
    JitStack stack{pcre2_jit_stack_create(64 << 10, 8 << 20, nullptr)};
    MatchState() {
        if (!data || !context || !stack) throw SystemError("regular expression: out of memory");
        pcre2_set_match_limit(context.get(), kMatchLimit);
        pcre2_set_heap_limit(context.get(), kHeapLimitKib);
        pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    }
};

class Regex : public Matcher {
  public:
    explicit Regex(std::string_view pattern) : pattern_(pattern) {
        const std::string translated = oniguruma_to_pcre2(pattern);
        int error = 0;
        PCRE2_SIZE place = 0;
        code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                  translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &error, &place, nullptr));
        if (!code_) {
            throw UserError(
                fmt::format("regular expression \"{}\": {}", pattern, pcre2_message(error)));
        }
        // Without JIT support the interpreter gives the same matches.
        pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
    }

    void find(std::string_view text, std::vector<Range>& matches) const override {
        thread_local MatchState state;
        const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state.data.get());
        std::size_t last_end = static_cast<std::size_t>(-1);
        for (std::size_t at = 0; at <= text.size();) {
            const int result =
                pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                            PCRE2_NO_UTF_CHECK, state.data.get(), state.context.get());
            if (result == PCRE2_ERROR_NOMATCH) return;
            if (result < 0) {
                throw UserError(fmt::format("regular expression \"{}\" on a text of {} bytes: {}",
                                            pattern_, text.size(), pcre2_message(result)));
            }
            const std::size_t begin = bounds[0], end = bounds[1];
            // An empty match right after a match is not one.
            if (begin != end || end != last_end) {
                matches.push_back(
                    {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)});
            }
            last_end = end;
            if (begin != end) {
                at = end;
            } else {
                at = end < text.size() ? end + decode_char(text.data() + end).bytes : end + 1;
            }
        }
    }

  private:
    std::string pattern_;
    Code code_;
};

class Literal : public Matcher {
  public:
    explicit Literal(std::string literal) : literal_(std::move(literal)) {}
    void find(std::string_view text, std::vector<Range>& matches) const override {
        if (literal_.empty()) return;
        for (std::size_t at = text.find(literal_); at != std::string_view::npos;
             at = text.find(literal_, at + literal_.size())) {
            matches.push_back(
                {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at + literal_.size())});
        }
    }

  private:
    std::string literal_;
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) {
    return Translator(pattern).run();
}

std::unique_ptr<Matcher> make_regex(std::string_view pattern) {
    return std::make_unique<Regex>(pattern);
}

std::unique_ptr<Matcher> make_literal(std::string literal) {
    return std::make_unique<Literal>(std::move(literal));
}

}  // namespace qshard::tok
