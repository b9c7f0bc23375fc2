#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat/lexer.h"
#include "io/chat/parser.h"

namespace qshard::jinja {

/// Walks over a template's tokens: what both halves of the parser stand on.
class TokenCursor {
  protected:
    using Type = Token::Type;

    explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    /// One level of nesting, for as long as it lives; refused beyond 100.
    struct Deeper {
        explicit Deeper(TokenCursor& cursor) : cursor_(cursor) {
            if (++cursor_.depth_ > kMaxDepth)
                cursor_.fail(fmt::format("nested deeper than {}", kMaxDepth));
        }
        ~Deeper() { --cursor_.depth_; }
        TokenCursor& cursor_;
    };

    const Token& current() const { return tokens_[position_]; }
    const Token& ahead() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
    const Token& next() {
        const Token& token = tokens_[position_];
        if (position_ + 1 < tokens_.size()) ++position_;
        return token;
    }
    bool is_operator(std::string_view text) const {
        return current().type == Type::kOperator && current().text == text;
    }
    bool is_name(std::string_view text) const {
        return current().type == Type::kName && current().text == text;
    }
    bool skip_operator(std::string_view text) { return is_operator(text) && (next(), true); }
    bool skip_name(std::string_view text) { return is_name(text) && (next(), true); }
    void expect_operator(std::string_view text) {
        if (!skip_operator(text)) fail(fmt::format("expected '{}', found {}", text, describe()));
    }
    void expect(Type type, const char* what) {
        if (current().type != type) fail(fmt::format("expected {}, found {}", what, describe()));
        next();
    }
    std::string expect_name() {
        if (current().type != Type::kName)
            fail(fmt::format("expected a name, found {}", describe()));
        return next().text;
    }
    std::string describe() const {
        switch (current().type) {
            case Type::kEnd:
                return "the end of the template";
            case Type::kBlockEnd:
                return "the end of the tag";
            case Type::kPrintEnd:
                return "the end of the expression";
            case Type::kText:
                return "a text literal";
            case Type::kInteger:
            case Type::kReal:
                return "a number";
            default:
                return fmt::format("'{}'", current().text);
        }
    }
    [[noreturn]] void fail(const std::string& what) const {
        throw TemplateSyntaxError(what, current().line);
    }

  private:
    static constexpr int kMaxDepth = 100;

    std::vector<Token> tokens_;
    std::size_t position_ = 0;
    int depth_ = 0;
};

}  // namespace qshard::jinja
