#pragma once

#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat/ast.h"

namespace qshard::jinja {

/// Names of one block of a template. Assignments stay in the innermost scope, look-ups go outwards.
struct Scope {
    Scope* parent = nullptr;
    bool captured = false;  ///< a macro refers to it: it lives as long as the rendering
    std::map<std::string_view, Value> names;
};

struct Callable {
    enum class Kind { kMacro, kGlobal, kMethod };
    Kind kind = Kind::kGlobal;
    std::string name;
    Value self;                        ///< of a method
    const Statement* macro = nullptr;  ///< of a macro (or the body of a call block)
    Scope* scope = nullptr;            ///< where the macro was defined
};

struct Arguments {
    std::vector<Value> positional;
    std::vector<std::pair<std::string, Value>> named;
};

/// The arguments of a builtin, by the names of its parameters. TemplateError for too many or
/// unknown ones.
class Parameters {
  public:
    Parameters(std::string_view function, const Arguments& arguments,
               std::initializer_list<std::string_view> names);
    bool has(std::size_t index) const { return values_[index].has_value(); }
    /// TemplateError if it was not given.
    const Value& at(std::size_t index) const;
    std::string text(std::size_t index, std::string_view otherwise) const;
    std::int64_t integer(std::size_t index, std::int64_t otherwise) const;
    bool flag(std::size_t index, bool otherwise) const;

  private:
    std::string function_;
    std::vector<std::string_view> names_;
    std::vector<std::optional<Value>> values_;
};

constexpr std::size_t kMaxSteps = 5'000'000;

/// Values visited by walking through `value`, up to kMaxSteps: shared containers make trees much
/// larger than the memory they take.
std::size_t tree_size(const Value& value);

/// Renders one template once. Work is limited: 5 million steps (one a node evaluated, item made or
/// 32 bytes of text made), 32 MiB of output, 600 nested evaluations; beyond, TemplateError.
class Evaluator {
  public:
    Evaluator(const boost::json::object& variables, std::optional<std::int64_t> clock);

    void define(std::string_view name, Value value) { root_->names[name] = std::move(value); }
    void run(const Body& body) { execute(body, root_); }

    const std::string& output() const { return output_; }
    const std::vector<std::pair<std::size_t, std::size_t>>& generation_spans() const {
        return generation_spans_;
    }
    int line() const { return line_; }

    // What builtins need (filters.cpp, methods.cpp, operators.cpp).
    void charge(std::size_t steps);
    /// A text value whose making is charged.
    Value text(std::string value);
    Value list(std::vector<Value> items);
    /// What iterating over the value gives; TemplateError if it cannot be iterated over. Consumes a
    /// generator.
    std::vector<Value> items_of(const Value& value);
    Value attribute(const Value& object, const std::string& name);
    Value item(const Value& object, const Value& key);
    Value slice(const Value& object, const Value* begin, const Value* end, const Value* step);
    Value call(const Value& function, const Arguments& arguments);
    Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);
    bool apply_test(const std::string& name, const Value& input, const Arguments& arguments);
    Value call_method(const Callable& method, const Arguments& arguments);
    Value call_global(const Callable& function, const Arguments& arguments);
    Value binary(const std::string& symbol, const Value& left, const Value& right);
    bool compare(const std::string& symbol, const Value& left, const Value& right);
    bool contains(const Value& container, const Value& needle);

  private:
    enum class Flow { kNext, kBreak, kContinue };
    friend class Deeper;

    Scope* open_scope(Scope* parent);
    void close_scope(Scope* scope);

    Flow execute(const Body& body, Scope* scope);
    Flow execute(const Statement& statement, Scope* scope);
    Flow execute_for(const Statement& statement, Scope* scope);
    void execute_with(const Statement& statement, Scope* scope);
    void execute_generation(const Statement& statement, Scope* scope);
    /// Renders a body into a text of its own, in a new scope.
    std::string capture(const Body& body, Scope* scope);
    void print(std::string_view text);
    void assign(const Target& target, const Value& value, Scope* scope);
    std::vector<Value> loop_items(const Statement& statement, Scope* scope);
    Value make_macro(const Statement& statement, std::string name, Scope* scope) const;
    Value call_macro(const Callable& macro, const Arguments& arguments);

    Value evaluate(const Expression& expression, Scope* scope);
    Value evaluate_name(const Expression& expression, Scope* scope) const;
    Value evaluate_dict(const Expression& expression, Scope* scope);
    Value evaluate_slice(const Expression& expression, Scope* scope);
    Value evaluate_compare(const Expression& expression, Scope* scope);
    Value evaluate_unary(const Expression& expression, Scope* scope);
    Value evaluate_filter(const Expression& expression, const Value* block_text, Scope* scope);
    Arguments evaluate_arguments(const Expression& expression, Scope* scope);

    std::deque<Scope> scopes_;
    std::vector<Scope*> free_scopes_;
    std::deque<Namespace> namespaces_;
    Scope* root_;
    std::string output_;
    std::string* sink_ = &output_;
    std::vector<std::pair<std::size_t, std::size_t>> generation_spans_;
    std::optional<std::int64_t> clock_;
    std::size_t steps_ = 0;
    int depth_ = 0;
    int line_ = 1;
};

}  // namespace qshard::jinja
