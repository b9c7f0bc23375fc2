#include "io/chat/expression_parser.h"

#include <algorithm>

namespace qshard::jinja {

ExpressionPtr ExpressionParser::make(Expression::Type type, std::string name) const {
    auto made = std::make_unique<Expression>();
    made->type = type;
    made->line = current().line;
    made->name = std::move(name);
    return made;
}

bool ExpressionParser::tuple_ends(Names end_names) const {
    if (current().type == Type::kBlockEnd || current().type == Type::kPrintEnd || is_operator(")"))
        return true;
    return current().type == Type::kName &&
           std::find(end_names.begin(), end_names.end(), current().text) != end_names.end();
}

ExpressionPtr ExpressionParser::tuple(bool with_if, Names end_names, bool may_be_empty) {
    auto made = make(Expression::Type::kTuple);
    bool is_tuple = false;
    while (!tuple_ends(end_names)) {
        made->operands.push_back(expression(with_if));
        if (!skip_operator(",")) break;
        is_tuple = true;
    }
    if (is_tuple || (may_be_empty && made->operands.empty())) return made;
    if (made->operands.empty()) fail(fmt::format("expected an expression, found {}", describe()));
    return std::move(made->operands[0]);
}

ExpressionPtr ExpressionParser::expression(bool with_if) {
    const Deeper guard(*this);
    ExpressionPtr left = or_expression();
    while (with_if && skip_name("if")) {
        ExpressionPtr condition = or_expression();
        ExpressionPtr otherwise = skip_name("else") ? expression(true) : nullptr;
        left = make_with(Expression::Type::kIf, "", std::move(condition), std::move(left),
                         std::move(otherwise));
    }
    return left;
}

ExpressionPtr ExpressionParser::or_expression() {
    ExpressionPtr left = and_expression();
    while (skip_name("or")) {
        left = make_with(Expression::Type::kOr, "", std::move(left), and_expression());
    }
    return left;
}

ExpressionPtr ExpressionParser::and_expression() {
    ExpressionPtr left = not_expression();
    while (skip_name("and")) {
        left = make_with(Expression::Type::kAnd, "", std::move(left), not_expression());
    }
    return left;
}

ExpressionPtr ExpressionParser::not_expression() {
    const Deeper guard(*this);
    if (skip_name("not")) return make_with(Expression::Type::kUnary, "not", not_expression());
    return comparison();
}

ExpressionPtr ExpressionParser::comparison() {
    static constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    ExpressionPtr left = sum();
    std::vector<ExpressionPtr> operands;
    std::vector<std::string> operators;
    while (true) {
        const bool symbol = current().type == Type::kOperator &&
                            std::find(std::begin(kOperators), std::end(kOperators),
                                      current().text) != std::end(kOperators);
        if (symbol) {
            operators.push_back(next().text);
        } else if (skip_name("in")) {
            operators.emplace_back("in");
        } else if (is_name("not") && ahead().type == Type::kName && ahead().text == "in") {
            next();
            next();
            operators.emplace_back("not in");
        } else {
            break;
        }
        operands.push_back(sum());
    }
    if (operators.empty()) return left;
    auto made = make_with(Expression::Type::kCompare, "", std::move(left));
    for (auto& operand : operands) made->operands.push_back(std::move(operand));
    made->operators = std::move(operators);
    return made;
}

ExpressionPtr ExpressionParser::sum() {
    ExpressionPtr left = concatenation();
    while (is_operator("+") || is_operator("-")) {
        const std::string symbol = next().text;
        left = make_with(Expression::Type::kBinary, symbol, std::move(left), concatenation());
    }
    return left;
}

ExpressionPtr ExpressionParser::concatenation() {
    ExpressionPtr first = product();
    if (!is_operator("~")) return first;
    auto made = make_with(Expression::Type::kConcat, "", std::move(first));
    while (skip_operator("~")) made->operands.push_back(product());
    return made;
}

ExpressionPtr ExpressionParser::product() {
    ExpressionPtr left = power();
    while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
        const std::string symbol = next().text;
        left = make_with(Expression::Type::kBinary, symbol, std::move(left), power());
    }
    return left;
}

ExpressionPtr ExpressionParser::power() {
    ExpressionPtr left = unary(true);
    while (skip_operator("**")) {
        left = make_with(Expression::Type::kBinary, "**", std::move(left), unary(true));
    }
    return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
    const Deeper guard(*this);
    ExpressionPtr made;
    if (is_operator("-") || is_operator("+")) {
        const std::string symbol = next().text;
        made = make_with(Expression::Type::kUnary, symbol, unary(false));
    } else {
        made = primary();
    }
    made = postfix(std::move(made));
    return with_filters ? filters(std::move(made), false) : std::move(made);
}

ExpressionPtr ExpressionParser::constant(Value value) const {
    auto made = make(Expression::Type::kConstant);
    made->constant = std::move(value);
    return made;
}

ExpressionPtr ExpressionParser::primary() {
    const Token& token = current();
    switch (token.type) {
        case Type::kName:
            next();
            if (token.text == "true" || token.text == "True") return constant(Value::boolean(true));
            if (token.text == "false" || token.text == "False")
                return constant(Value::boolean(false));
            if (token.text == "none" || token.text == "None") return constant(Value::none());
            return make(Expression::Type::kName, token.text);
        case Type::kText: {
            std::string text;
            while (current().type == Type::kText) text += next().text;
            return constant(Value::text(std::move(text)));
        }
        case Type::kInteger:
            next();
            return constant(Value::integer(token.integer));
        case Type::kReal:
            next();
            return constant(Value::real(token.real));
        default:
            break;
    }
    if (skip_operator("(")) {
        ExpressionPtr made = tuple(true, {}, true);
        expect_operator(")");
        return made;
    }
    if (skip_operator("[")) {
        auto made = make(Expression::Type::kList);
        while (!is_operator("]")) {
            if (!made->operands.empty()) expect_operator(",");
            if (is_operator("]")) break;
            made->operands.push_back(expression(true));
        }
        expect_operator("]");
        return made;
    }
    if (skip_operator("{")) {
        auto made = make(Expression::Type::kDict);
        while (!is_operator("}")) {
            if (!made->operands.empty()) expect_operator(",");
            if (is_operator("}")) break;
            made->operands.push_back(expression(true));
            expect_operator(":");
            made->operands.push_back(expression(true));
        }
        expect_operator("}");
        return made;
    }
    fail(fmt::format("unexpected {}", describe()));
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr made) {
    while (true) {
        if (skip_operator(".")) {
            if (current().type == Type::kInteger) {
                const std::int64_t index = next().integer;
                made = make_with(Expression::Type::kItem, "", std::move(made),
                                 constant(Value::integer(index)));
            } else {
                const std::string name = expect_name();
                made = make_with(Expression::Type::kAttribute, name, std::move(made));
            }
        } else if (skip_operator("[")) {
            made = subscript(std::move(made));
            expect_operator("]");
        } else if (is_operator("(")) {
            made = make_with(Expression::Type::kCall, "", std::move(made));
            arguments(*made);
        } else {
            return made;
        }
    }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr object) {
    ExpressionPtr parts[3];
    int colons = 0;
    while (true) {
        if (is_operator(":")) {
            next();
            if (++colons > 2) fail("a slice has more than three parts");
        } else if (is_operator("]")) {
            break;
        } else {
            if (parts[colons] != nullptr) fail(fmt::format("expected ']', found {}", describe()));
            parts[colons] = expression(true);
        }
    }
    if (colons > 0) {
        return make_with(Expression::Type::kSlice, "", std::move(object), std::move(parts[0]),
                         std::move(parts[1]), std::move(parts[2]));
    }
    if (parts[0] == nullptr) fail("expected an index in []");
    return make_with(Expression::Type::kItem, "", std::move(object), std::move(parts[0]));
}

void ExpressionParser::arguments(Expression& made) {
    expect_operator("(");
    for (bool first = true; !is_operator(")"); first = false) {
        if (!first) expect_operator(",");
        if (is_operator(")")) break;
        if (made.star_keywords) fail("an argument after **");
        if (skip_operator("**")) {
            made.keywords.emplace_back("", expression(true));
            made.star_keywords = true;
        } else if (current().type == Type::kName && ahead().type == Type::kOperator &&
                   ahead().text == "=") {
            std::string name = next().text;
            next();
            made.keywords.emplace_back(std::move(name), expression(true));
        } else {
            if (made.star_arguments || !made.keywords.empty())
                fail("a positional argument after * or a keyword");
            made.star_arguments = skip_operator("*");
            made.operands.push_back(expression(true));
        }
    }
    expect_operator(")");
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr inner, bool first_is_bare) {
    const bool of_block = inner == nullptr;
    while (true) {
        if (first_is_bare || skip_operator("|")) {
            first_is_bare = false;
            const std::string name = expect_name();
            inner = make_with(Expression::Type::kFilter, name, std::move(inner));
            if (is_operator("(")) arguments(*inner);
        } else if (!of_block && skip_name("is")) {
            inner = test(std::move(inner));
        } else if (!of_block && is_operator("(")) {
            inner = make_with(Expression::Type::kCall, "", std::move(inner));
            arguments(*inner);
        } else {
            return inner;
        }
    }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr inner) {
    const bool negated = skip_name("not");
    ExpressionPtr made = make_with(Expression::Type::kTest, expect_name(), std::move(inner));
    const Type type = current().type;
    const bool keyword = is_name("else") || is_name("or") || is_name("and") || is_name("if");
    if (is_operator("(")) {
        arguments(*made);
    } else if ((type == Type::kName && !keyword) || type == Type::kText || type == Type::kInteger ||
               type == Type::kReal || is_operator("[") || is_operator("{")) {
        if (is_name("is")) fail("tests cannot be chained with 'is'");
        made->operands.push_back(postfix(primary()));
    }
    return negated ? make_with(Expression::Type::kUnary, "not", std::move(made)) : std::move(made);
}

}  // namespace qshard::jinja
