#include "io/chat/parser.h"

#include <algorithm>

#include "io/chat/expression_parser.h"

namespace qshard::jinja {
namespace {

/// Statements of a template; expressions come from the other half.
class Parser : ExpressionParser {
  public:
    explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

    Body run() {
        Body statements = body({});
        if (current().type != Type::kEnd) fail(fmt::format("unexpected {}", describe()));
        return statements;
    }

  private:
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

    std::string end_name_;
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
