#include "io/chat/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "io/chat/lexer.h"

namespace qshard::jinja {
namespace {

using Type = Token::Type;
using Names = std::initializer_list<std::string_view>;
constexpr int kMaxDepth = 100;
/// Left-associative chains build a tree as high as they are long.
constexpr int kMaxHeight = 500;

class Parser {
  public:
    explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    Body run() {
        Body statements = body({});
        if (current().type != Type::kEnd) fail(fmt::format("unexpected {}", describe()));
        return statements;
    }

  private:
    struct Deeper {
        explicit Deeper(Parser& parser) : parser_(parser) {
            if (++parser_.depth_ > kMaxDepth)
                parser_.fail(fmt::format("nested deeper than {}", kMaxDepth));
        }
        ~Deeper() { --parser_.depth_; }
        Parser& parser_;
    };

    // Tokens.
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

    // Statements.

    /// Statements up to a tag named in `end_names`, whose name is consumed into end_name_ (not its
    /// end mark).
    Body body(Names end_names) {
        const Deeper guard(*this);
        Body statements;
        while (true) {
            switch (current().type) {
                case Type::kData:
                    statements.push_back(node(Statement::Type::kData));
                    statements.back()->text = next().text;
                    break;
                case Type::kPrintBegin:
                    next();
                    statements.push_back(node(Statement::Type::kPrint));
                    statements.back()->value = tuple(true, {});
                    expect(Type::kPrintEnd, "the end of the expression }}");
                    break;
                case Type::kBlockBegin: {
                    const std::string& name = ahead().text;
                    if (ahead().type == Type::kName &&
                        std::find(end_names.begin(), end_names.end(), name) != end_names.end()) {
                        next();
                        end_name_ = next().text;
                        return statements;
                    }
                    next();
                    statements.push_back(statement());
                    expect(Type::kBlockEnd, "the end of the tag %}");
                    break;
                }
                default:
                    if (end_names.size() > 0)
                        fail(fmt::format("expected {{% {} %}}, found {}", *(end_names.end() - 1),
                                         describe()));
                    return statements;
            }
        }
    }

    StatementPtr node(Statement::Type type) const {
        auto made = std::make_unique<Statement>();
        made->type = type;
        made->line = current().line;
        return made;
    }

    void end_of_tag() { expect(Type::kBlockEnd, "the end of the tag %}"); }

    StatementPtr statement() {
        const int line = current().line;
        const std::string name = expect_name();
        StatementPtr made;
        if (name == "if") {
            made = if_statement();
        } else if (name == "for") {
            made = for_statement();
        } else if (name == "set") {
            made = set_statement();
        } else if (name == "macro") {
            made = node(Statement::Type::kMacro);
            made->text = expect_name();
            signature(*made);
            macro_body(*made, "endmacro");
        } else if (name == "call") {
            made = node(Statement::Type::kCallBlock);
            if (is_operator("(")) signature(*made);
            made->value = expression(true);
            if (made->value->type != Expression::Type::kCall) fail("expected a call in {% call %}");
            macro_body(*made, "endcall");
        } else if (name == "filter") {
            made = node(Statement::Type::kFilter);
            made->value = filters(nullptr, true);
            end_of_tag();
            made->body = body({"endfilter"});
        } else if (name == "with") {
            made = with_statement();
        } else if (name == "generation") {
            made = node(Statement::Type::kGeneration);
            end_of_tag();
            macro_depth([&] { made->body = body({"endgeneration"}); });
        } else if (name == "break" || name == "continue") {
            if (loops_ == 0) fail(fmt::format("{{% {} %}} outside of a loop", name));
            made = node(name == "break" ? Statement::Type::kBreak : Statement::Type::kContinue);
        } else {
            throw TemplateSyntaxError(fmt::format("unknown or unsupported tag '{}'", name), line);
        }
        made->line = line;
        return made;
    }

    StatementPtr if_statement() {
        const Deeper guard(*this);
        auto made = node(Statement::Type::kIf);
        made->value = tuple(false, {});
        end_of_tag();
        made->body = body({"elif", "else", "endif"});
        if (end_name_ == "elif") {
            made->otherwise.push_back(if_statement());
        } else if (end_name_ == "else") {
            end_of_tag();
            made->otherwise = body({"endif"});
        }
        return made;
    }

    StatementPtr for_statement() {
        auto made = node(Statement::Type::kFor);
        made->target = target(false);
        if (!skip_name("in")) fail(fmt::format("expected 'in', found {}", describe()));
        made->value = tuple(false, {"recursive"});
        if (skip_name("if")) made->condition = expression(true);
        if (is_name("recursive")) fail("recursive loops are not supported");
        end_of_tag();
        ++loops_;
        made->body = body({"else", "endfor"});
        --loops_;
        if (end_name_ == "else") {
            end_of_tag();
            made->otherwise = body({"endfor"});
        }
        return made;
    }

    StatementPtr set_statement() {
        auto made = node(Statement::Type::kSet);
        made->target = target(true);
        if (skip_operator("=")) {
            made->value = tuple(true, {});
            return made;
        }
        made->type = Statement::Type::kSetBlock;
        if (is_operator("|")) made->value = filters(nullptr, false);
        end_of_tag();
        made->body = body({"endset"});
        return made;
    }

    StatementPtr with_statement() {
        auto made = node(Statement::Type::kWith);
        while (current().type != Type::kBlockEnd) {
            if (!made->parameters.empty()) expect_operator(",");
            made->parameters.push_back(expect_name());
            expect_operator("=");
            made->defaults.push_back(expression(true));
        }
        end_of_tag();
        made->body = body({"endwith"});
        return made;
    }

    void signature(Statement& made) {
        expect_operator("(");
        while (!is_operator(")")) {
            if (!made.parameters.empty()) expect_operator(",");
            made.parameters.push_back(expect_name());
            if (skip_operator("=")) {
                made.defaults.push_back(expression(true));
            } else {
                if (!made.defaults.empty() && made.defaults.back() != nullptr)
                    fail("a parameter without default after one with");
                made.defaults.emplace_back();
            }
        }
        expect_operator(")");
    }

    /// Runs `parse` where break and continue cannot reach the loops outside.
    template <class Parse>
    void macro_depth(Parse parse) {
        const int loops = std::exchange(loops_, 0);
        parse();
        loops_ = loops;
    }

    void macro_body(Statement& made, std::string_view end_name) {
        end_of_tag();
        macro_depth([&] { made.body = body({end_name}); });
    }

    Target single_target(bool with_attribute) {
        Target made;
        if (skip_operator("(")) {
            made = target(with_attribute);
            expect_operator(")");
            return made;
        }
        made.name = expect_name();
        if (with_attribute && skip_operator(".")) made.attribute = expect_name();
        return made;
    }

    Target target(bool with_attribute) {
        const Deeper guard(*this);
        Target first = single_target(with_attribute);
        if (!is_operator(",")) return first;
        Target made;
        made.targets.push_back(std::move(first));
        while (skip_operator(",")) {
            if (current().type != Type::kName && !is_operator("(")) break;
            if (is_name("in")) break;
            made.targets.push_back(single_target(with_attribute));
        }
        return made;
    }

    // Expressions, from the loosest to the tightest.

    ExpressionPtr make(Expression::Type type, std::string name = "") const {
        auto made = std::make_unique<Expression>();
        made->type = type;
        made->line = current().line;
        made->name = std::move(name);
        return made;
    }

    template <class... Operands>
    ExpressionPtr make_with(Expression::Type type, std::string name, Operands... operands) const {
        auto made = make(type, std::move(name));
        (made->operands.push_back(std::move(operands)), ...);
        for (const auto& operand : made->operands) {
            if (operand != nullptr) made->height = std::max(made->height, operand->height + 1);
        }
        if (made->height > kMaxHeight)
            fail(fmt::format("an expression has more than {} operators in a row", kMaxHeight));
        return made;
    }

    bool tuple_ends(Names end_names) const {
        if (current().type == Type::kBlockEnd || current().type == Type::kPrintEnd ||
            is_operator(")"))
            return true;
        return current().type == Type::kName &&
               std::find(end_names.begin(), end_names.end(), current().text) != end_names.end();
    }

    /// One expression, or a tuple if a comma follows it.
    ExpressionPtr tuple(bool with_if, Names end_names, bool may_be_empty = false) {
        auto made = make(Expression::Type::kTuple);
        bool is_tuple = false;
        while (!tuple_ends(end_names)) {
            made->operands.push_back(expression(with_if));
            if (!skip_operator(",")) break;
            is_tuple = true;
        }
        if (is_tuple || (may_be_empty && made->operands.empty())) return made;
        if (made->operands.empty())
            fail(fmt::format("expected an expression, found {}", describe()));
        return std::move(made->operands[0]);
    }

    ExpressionPtr expression(bool with_if) {
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

    ExpressionPtr or_expression() {
        ExpressionPtr left = and_expression();
        while (skip_name("or")) {
            left = make_with(Expression::Type::kOr, "", std::move(left), and_expression());
        }
        return left;
    }

    ExpressionPtr and_expression() {
        ExpressionPtr left = not_expression();
        while (skip_name("and")) {
            left = make_with(Expression::Type::kAnd, "", std::move(left), not_expression());
        }
        return left;
    }

    ExpressionPtr not_expression() {
        const Deeper guard(*this);
        if (skip_name("not")) return make_with(Expression::Type::kUnary, "not", not_expression());
        return comparison();
    }

    ExpressionPtr comparison() {
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

    ExpressionPtr sum() {
        ExpressionPtr left = concatenation();
        while (is_operator("+") || is_operator("-")) {
            const std::string symbol = next().text;
            left = make_with(Expression::Type::kBinary, symbol, std::move(left), concatenation());
        }
        return left;
    }

    ExpressionPtr concatenation() {
        ExpressionPtr first = product();
        if (!is_operator("~")) return first;
        auto made = make_with(Expression::Type::kConcat, "", std::move(first));
        while (skip_operator("~")) made->operands.push_back(product());
        return made;
    }

    ExpressionPtr product() {
        ExpressionPtr left = power();
        while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
            const std::string symbol = next().text;
            left = make_with(Expression::Type::kBinary, symbol, std::move(left), power());
        }
        return left;
    }

    ExpressionPtr power() {
        ExpressionPtr left = unary(true);
        while (skip_operator("**")) {
            left = make_with(Expression::Type::kBinary, "**", std::move(left), unary(true));
        }
        return left;
    }

    ExpressionPtr unary(bool with_filters) {
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

    ExpressionPtr constant(Value value) const {
        auto made = make(Expression::Type::kConstant);
        made->constant = std::move(value);
        return made;
    }

    ExpressionPtr primary() {
        const Token& token = current();
        switch (token.type) {
            case Type::kName:
                next();
                if (token.text == "true" || token.text == "True")
                    return constant(Value::boolean(true));
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

    ExpressionPtr postfix(ExpressionPtr made) {
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

    ExpressionPtr subscript(ExpressionPtr object) {
        ExpressionPtr parts[3];
        int colons = 0;
        while (true) {
            if (is_operator(":")) {
                next();
                if (++colons > 2) fail("a slice has more than three parts");
            } else if (is_operator("]")) {
                break;
            } else {
                if (parts[colons] != nullptr)
                    fail(fmt::format("expected ']', found {}", describe()));
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

    /// Appends the arguments between parentheses to a call, filter or test.
    void arguments(Expression& made) {
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

    /// Filters, tests and calls after an expression. `inner` null: the filters of a block, the
    /// first without '|'.
    ExpressionPtr filters(ExpressionPtr inner, bool first_is_bare) {
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

    ExpressionPtr test(ExpressionPtr inner) {
        const bool negated = skip_name("not");
        ExpressionPtr made = make_with(Expression::Type::kTest, expect_name(), std::move(inner));
        const Type type = current().type;
        const bool keyword = is_name("else") || is_name("or") || is_name("and") || is_name("if");
        if (is_operator("(")) {
            arguments(*made);
        } else if ((type == Type::kName && !keyword) || type == Type::kText ||
                   type == Type::kInteger || type == Type::kReal || is_operator("[") ||
                   is_operator("{")) {
            if (is_name("is")) fail("tests cannot be chained with 'is'");
            made->operands.push_back(postfix(primary()));
        }
        return negated ? make_with(Expression::Type::kUnary, "not", std::move(made))
                       : std::move(made);
    }

    std::vector<Token> tokens_;
    std::size_t position_ = 0;
    std::string end_name_;
    int depth_ = 0;
    int loops_ = 0;
};

}  // namespace

Body parse_template(std::string_view source) {
    return Parser(tokenize(source)).run();
}

bool has_generation_block(const Body& body) {
    return std::any_of(body.begin(), body.end(), [](const StatementPtr& statement) {
        return statement->type == Statement::Type::kGeneration ||
               has_generation_block(statement->body) || has_generation_block(statement->otherwise);
    });
}

}  // namespace qshard::jinja
