#include "io/chat/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "io/chat/parser.h"
#include "io/chat/text.h"

namespace qshard::jinja {
namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           static_cast<unsigned char>(c) >= 0x80;
}
bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/// Newlines become \n and one at the end is dropped.
std::string normalize(std::string_view source) {
    std::string out;
    for (std::size_t i = 0; i < source.size(); ++i) {
        if (source[i] != '\r') {
            out += source[i];
            continue;
        }
        out += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
}

class Lexer {
  public:
    explicit Lexer(std::string_view source) : source_(normalize(source)) {}

    std::vector<Token> run() {
        while (position_ < source_.size()) root();
        emit(Token::Type::kEnd, "");
        return std::move(tokens_);
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw TemplateSyntaxError(what, line_);
    }

    char peek(std::size_t ahead = 0) const {
        return position_ + ahead < source_.size() ? source_[position_ + ahead] : '\0';
    }

    void advance(std::size_t bytes) {
        for (std::size_t i = 0; i < bytes; ++i) line_ += source_[position_ + i] == '\n' ? 1 : 0;
        position_ += bytes;
    }

    Token& emit(Token::Type type, std::string text) {
        tokens_.push_back({type, std::move(text), 0, 0, line_});
        return tokens_.back();
    }

    /// Text up to the next tag, and the tag.
    void root() {
        std::size_t tag = position_;
        while (true) {
            tag = source_.find('{', tag);
            if (tag == std::string::npos || tag + 1 >= source_.size()) {
                emit(Token::Type::kData, source_.substr(position_));
                advance(source_.size() - position_);
                return;
            }
            if (source_[tag + 1] == '{' || source_[tag + 1] == '%' || source_[tag + 1] == '#')
                break;
            ++tag;
        }
        const char kind = source_[tag + 1];
        data_before(tag, kind != '{');
        advance(2);
        if (peek() == '-' || peek() == '+') advance(1);
        if (kind == '#') {
            comment();
        } else if (kind == '{') {
            emit(Token::Type::kPrintBegin, "");
            inside(Token::Type::kPrintEnd, "}}");
        } else if (const auto bytes = raw_tag("raw")) {
            raw(*bytes);
        } else {
            emit(Token::Type::kBlockBegin, "");
            inside(Token::Type::kBlockEnd, "%}");
        }
    }

    /// Emits the text before the tag at `tag`, stripped as its sign and lstrip_blocks say, and
    /// moves to the tag.
    void data_before(std::size_t tag, bool strip_indent) {
        std::string_view text = std::string_view(source_).substr(position_, tag - position_);
        const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
        if (sign == '-') {
            text = strip(text, std::nullopt, false, true);
        } else if (sign != '+' && strip_indent) {
            const std::size_t newline = text.rfind('\n');
            const std::size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
            if ((begin > 0 || line_starting_) &&
                strip(text.substr(begin), std::nullopt, true, false).empty()) {
                text = text.substr(0, begin);
            }
        }
        if (!text.empty()) emit(Token::Type::kData, std::string(text));
        advance(tag - position_);
    }

    /// Moves past a closing mark that begins at position_ (its sign included) and the white space
    /// it takes along.
    void close(bool trim_newline) {
        const char sign = peek();
        advance(sign == '-' || sign == '+' ? 3 : 2);
        const std::size_t begin = position_;
        if (sign == '-') {
            std::size_t end = position_;
            while (end < source_.size()) {
                std::size_t next = end;
                if (!is_space(next_code_point(source_, next))) break;
                end = next;
            }
            advance(end - position_);
        } else if (sign != '+' && trim_newline && peek() == '\n') {
            advance(1);
        }
        line_starting_ = position_ > begin && source_[position_ - 1] == '\n';
    }

    void comment() {
        std::size_t end = source_.find("#}", position_);
        if (end == std::string::npos) fail("a comment {# is not closed by #}");
        if (end > position_ && (source_[end - 1] == '-' || source_[end - 1] == '+')) --end;
        advance(end - position_);
        close(true);
    }

    /// If `name` and a block end follow, the bytes up to (not including) the end mark with its
    /// sign.
    std::optional<std::size_t> raw_tag(std::string_view name) const {
        std::size_t at = position_;
        while (at < source_.size() && is_blank(source_[at])) ++at;
        if (source_.compare(at, name.size(), name) != 0) return std::nullopt;
        at += name.size();
        while (at < source_.size() && is_blank(source_[at])) ++at;
        const std::size_t mark =
            at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? at + 1 : at;
        if (source_.compare(mark, 2, "%}") != 0) return std::nullopt;
        return at - position_;
    }

    void raw(std::size_t tag_bytes) {
        advance(tag_bytes);
        close(false);
        for (std::size_t end = position_; (end = source_.find("{%", end)) != std::string::npos;
             ++end) {
            const std::size_t begin = position_;
            position_ = end + 2;
            if (peek() == '-' || peek() == '+') ++position_;
            const auto bytes = raw_tag("endraw");
            const std::size_t after = position_;
            position_ = begin;
            if (!bytes) continue;
            data_before(end, true);
            advance(after + *bytes - position_);
            close(true);
            return;
        }
        fail("{% raw %} is not closed by {% endraw %}");
    }

    /// Tokens of a tag, up to its end mark.
    void inside(Token::Type end_type, std::string_view end_mark) {
        std::string open;
        while (true) {
            while (is_blank(peek())) advance(1);
            if (position_ >= source_.size())
                fail(fmt::format("a tag is not closed by {}", end_mark));
            if (open.empty()) {
                const bool sign = peek() == '-' || (peek() == '+' && end_mark == "%}");
                if (source_.compare(position_ + (sign ? 1 : 0), 2, end_mark) == 0) {
                    emit(end_type, "");
                    return close(end_mark == "%}");
                }
            }
            token(open);
        }
    }

    void token(std::string& open) {
        const char c = peek();
        if (is_name_start(c)) {
            std::size_t end = position_;
            while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end])))
                ++end;
            emit(Token::Type::kName, source_.substr(position_, end - position_));
            advance(end - position_);
        } else if (is_digit(c)) {
            number();
        } else if (c == '"' || c == '\'') {
            text_literal(c);
        } else {
            operator_token(open);
        }
    }

    void operator_token(std::string& open) {
        static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", "<=", ">="};
        const std::string_view rest = std::string_view(source_).substr(position_);
        for (std::string_view two : kTwo) {
            if (!rest.starts_with(two)) continue;
            emit(Token::Type::kOperator, std::string(two));
            return advance(2);
        }
        const char c = peek();
        if (std::string_view("+-*/%~[](){}<>=.:|,").find(c) == std::string_view::npos) {
            fail(fmt::format("unexpected character {}", repr(rest.substr(0, 1))));
        }
        if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
        if (c == ')' || c == ']' || c == '}') {
            if (open.empty() || open.back() != c) fail(fmt::format("unexpected '{}'", c));
            open.pop_back();
        }
        emit(Token::Type::kOperator, std::string(1, c));
        advance(1);
    }

    void number() {
        std::size_t end = position_;
        const auto digits = [&] {
            while (end < source_.size() && (is_digit(source_[end]) || source_[end] == '_')) ++end;
        };
        int base = 10;
        const char second = static_cast<char>(peek(1) | 0x20);
        if (peek() == '0' && (second == 'x' || second == 'o' || second == 'b')) {
            base = second == 'x' ? 16 : second == 'o' ? 8 : 2;
            end += 2;
            while (end < source_.size() &&
                   (std::isxdigit(static_cast<unsigned char>(source_[end])) != 0 ||
                    source_[end] == '_'))
                ++end;
        } else {
            digits();
        }
        bool real = false;
        const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
        if (base == 10 && !after_dot) {
            if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
                real = true;
                ++end;
                digits();
            }
            std::size_t exponent = end;
            if (exponent < source_.size() && (source_[exponent] | 0x20) == 'e') {
                ++exponent;
                if (exponent < source_.size() &&
                    (source_[exponent] == '+' || source_[exponent] == '-'))
                    ++exponent;
                if (exponent < source_.size() && is_digit(source_[exponent])) {
                    real = true;
                    end = exponent;
                    digits();
                }
            }
        }
        std::string digits_only = source_.substr(position_, end - position_);
        std::erase(digits_only, '_');
        if (real) {
            emit(Token::Type::kReal, "").real = std::strtod(digits_only.c_str(), nullptr);
        } else {
            Token& token = emit(Token::Type::kInteger, "");
            const char* begin = digits_only.data() + (base == 10 ? 0 : 2);
            const char* stop = digits_only.data() + digits_only.size();
            const auto result = std::from_chars(begin, stop, token.integer, base);
            if (result.ec != std::errc() || result.ptr != stop)
                fail(fmt::format("{} is not a 64-bit integer", digits_only));
        }
        advance(end - position_);
    }

    void text_literal(char quote) {
        std::size_t end = position_ + 1;
        while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
        if (end >= source_.size()) fail("a text literal is not closed");
        emit(Token::Type::kText,
             unescape(std::string_view(source_).substr(position_ + 1, end - position_ - 1)));
        advance(end + 1 - position_);
    }

    std::string unescape(std::string_view body) const {
        static constexpr std::string_view kFrom = "nrtabfv\\'\"", kTo = "\n\r\t\a\b\f\v\\'\"";
        std::string out;
        for (std::size_t i = 0; i < body.size();) {
            if (body[i] != '\\') {
                out += body[i++];
                continue;
            }
            const char c = body[i + 1];
            i += 2;
            if (c == '\n') continue;
            if (const auto at = kFrom.find(c); at != std::string_view::npos) {
                out += kTo[at];
            } else if (c == 'x' || c == 'u' || c == 'U') {
                append_code(out, body, i, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16);
            } else if (c >= '0' && c <= '7') {
                --i;
                std::size_t digits = 0;
                while (digits < 3 && i + digits < body.size() && body[i + digits] >= '0' &&
                       body[i + digits] <= '7')
                    ++digits;
                append_code(out, body, i, digits, 8);
            } else {
                out += '\\';
                out += c;
            }
        }
        return out;
    }

    void append_code(std::string& out, std::string_view body, std::size_t& at, std::size_t digits,
                     int base) const {
        std::uint32_t code = 0;
        const char* begin = body.data() + at;
        const char* stop = body.data() + std::min(body.size(), at + digits);
        const auto result = std::from_chars(begin, stop, code, base);
        if (result.ec != std::errc() || result.ptr != begin + digits || code > 0x10FFFF ||
            (code >= 0xD800 && code < 0xE000)) {
            fail("a text literal has a bad \\ escape");
        }
        append_utf8(out, code);
        at += digits;
    }

    std::string source_;
    std::size_t position_ = 0;
    int line_ = 1;
    bool line_starting_ = true;
    std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
    return Lexer(source).run();
}

}  // namespace qshard::jinja
