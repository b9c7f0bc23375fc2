#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Cuts a template into tokens, as jinja2's lexer does with trim_blocks and lstrip_blocks on and
/// keep_trailing_newline off.
namespace qshard::jinja {

struct Token {
    enum class Type {
        kData,
        kBlockBegin,
        kBlockEnd,
        kPrintBegin,
        kPrintEnd,
        kName,
        kText,
        kInteger,
        kReal,
        kOperator,
        kEnd
    };
    Type type = Type::kEnd;
    std::string text;  ///< of data, names, operators; the value of a text literal
    std::int64_t integer = 0;
    double real = 0;
    int line = 1;
};

/// TemplateSyntaxError for anything that is not a token. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source);

}  // namespace qshard::jinja
