#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat/token_cursor.h"

namespace qshard::jinja {

/// Expressions of a template, by recursive descent: a method a level, from the loosest to the
/// tightest. `with_if` allows "a if b else c".
class ExpressionParser : protected TokenCursor {
  protected:
    using Names = std::initializer_list<std::string_view>;

    using TokenCursor::TokenCursor;

    ExpressionPtr make(Expression::Type type, std::string name = "") const;
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
    bool tuple_ends(Names end_names) const;
    /// One expression, or a tuple if a comma follows it.
    ExpressionPtr tuple(bool with_if, Names end_names, bool may_be_empty = false);
    ExpressionPtr expression(bool with_if);
    ExpressionPtr or_expression();
    ExpressionPtr and_expression();
    ExpressionPtr not_expression();
    ExpressionPtr comparison();
    ExpressionPtr sum();
    ExpressionPtr concatenation();
    ExpressionPtr product();
    ExpressionPtr power();
    ExpressionPtr unary(bool with_filters);
    ExpressionPtr constant(Value value) const;
    ExpressionPtr primary();
    ExpressionPtr postfix(ExpressionPtr made);
    ExpressionPtr subscript(ExpressionPtr object);
    /// Appends the arguments between parentheses to a call, filter or test.
    void arguments(Expression& made);
    /// Filters, tests and calls after an expression. `inner` null: the filters of a block, the
    /// first without '|'.
    ExpressionPtr filters(ExpressionPtr inner, bool first_is_bare);
    ExpressionPtr test(ExpressionPtr inner);

  private:
    /// Left-associative chains build a tree as high as they are long.
    static constexpr int kMaxHeight = 500;
};

}  // namespace qshard::jinja
