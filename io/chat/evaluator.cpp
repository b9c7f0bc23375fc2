#include "io/chat/evaluator.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/chat/text.h"

namespace qshard::jinja {

constexpr int kMaxDepth = 600;

class Deeper {
  public:
    explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
        if (++evaluator_.depth_ > kMaxDepth) {
            throw TemplateError(fmt::format("the template recurses deeper than {}", kMaxDepth));
        }
    }
    ~Deeper() { --evaluator_.depth_; }

  private:
    Evaluator& evaluator_;
};

Evaluator::Evaluator(const boost::json::object& variables, std::optional<std::int64_t> clock)
    : root_(open_scope(nullptr)), clock_(clock) {
    root_->captured = true;
    for (const char* name : {"range", "dict", "namespace", "raise_exception", "strftime_now"}) {
        define(name, Value(Value::Data(std::make_shared<const Callable>(
                         Callable{Callable::Kind::kGlobal, name, {}, nullptr, nullptr}))));
    }
    for (const auto& variable : variables)
        define(variable.key(), Value::from_json(variable.value()));
}

void Evaluator::charge(std::size_t steps) {
    steps_ += steps;
    if (steps_ > kMaxSteps)
        throw TemplateError(fmt::format("the template takes more than {} steps", kMaxSteps));
}

Value Evaluator::text(std::string value) {
    charge(value.size() / 32);
    return Value::text(std::move(value));
}

Value Evaluator::list(std::vector<Value> items) {
    charge(items.size());
    return Value::list(std::move(items));
}

Scope* Evaluator::open_scope(Scope* parent) {
    if (free_scopes_.empty()) {
        scopes_.emplace_back();
        free_scopes_.push_back(&scopes_.back());
    }
    Scope* scope = free_scopes_.back();
    free_scopes_.pop_back();
    scope->parent = parent;
    return scope;
}

void Evaluator::close_scope(Scope* scope) {
    if (scope->captured) return;
    scope->names.clear();
    free_scopes_.push_back(scope);
}

void Evaluator::print(std::string_view text) {
    charge(text.size() / 32);
    if (sink_->size() + text.size() > kMaxTextBytes) {
        throw TemplateError(fmt::format("the output is larger than {} MiB", kMaxTextBytes >> 20));
    }
    *sink_ += text;
}

std::string Evaluator::capture(const Body& body, Scope* scope) {
    std::string text;
    std::string* outer = std::exchange(sink_, &text);
    Scope* inner = open_scope(scope);
    execute(body, inner);
    close_scope(inner);
    sink_ = outer;
    return text;
}

Evaluator::Flow Evaluator::execute(const Body& body, Scope* scope) {
    for (const StatementPtr& statement : body) {
        const Flow flow = execute(*statement, scope);
        if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const Statement& statement, Scope* scope) {
    using Type = Statement::Type;
    const Deeper guard(*this);
    charge(1);
    line_ = statement.line;
    switch (statement.type) {
        case Type::kData:
            print(statement.text);
            break;
        case Type::kPrint:
            print(to_text(evaluate(*statement.value, scope)));
            break;
        case Type::kIf:
            return execute(
                evaluate(*statement.value, scope).truthy() ? statement.body : statement.otherwise,
                scope);
        case Type::kFor:
            return execute_for(statement, scope);
        case Type::kSet:
            assign(statement.target, evaluate(*statement.value, scope), scope);
            break;
        case Type::kSetBlock: {
            Value value = text(capture(statement.body, scope));
            if (statement.value != nullptr)
                value = evaluate_filter(*statement.value, &value, scope);
            assign(statement.target, value, scope);
            break;
        }
        case Type::kMacro:
            scope->names[statement.text] = make_macro(statement, statement.text, scope);
            break;
        case Type::kCallBlock: {
            Arguments arguments = evaluate_arguments(*statement.value, scope);
            arguments.named.emplace_back("caller", make_macro(statement, "caller", scope));
            print(to_text(call(evaluate(*statement.value->operands[0], scope), arguments)));
            break;
        }
        case Type::kFilter: {
            const Value value = text(capture(statement.body, scope));
            print(to_text(evaluate_filter(*statement.value, &value, scope)));
            break;
        }
        case Type::kWith:
            execute_with(statement, scope);
            break;
        case Type::kGeneration:
            execute_generation(statement, scope);
            break;
        case Type::kBreak:
            return Flow::kBreak;
        case Type::kContinue:
            return Flow::kContinue;
    }
    return Flow::kNext;
}

void Evaluator::execute_with(const Statement& statement, Scope* scope) {
    Scope* inner = open_scope(scope);
    for (std::size_t i = 0; i < statement.parameters.size(); ++i) {
        inner->names[statement.parameters[i]] = evaluate(*statement.defaults[i], scope);
    }
    execute(statement.body, inner);
    close_scope(inner);
}

void Evaluator::execute_generation(const Statement& statement, Scope* scope) {
    if (sink_ != &output_) {
        throw TemplateError(
            "a {% generation %} block inside a macro or a captured block has no place in the "
            "output");
    }
    const std::size_t begin = output_.size();
    Scope* inner = open_scope(scope);
    execute(statement.body, inner);
    close_scope(inner);
    generation_spans_.emplace_back(begin, output_.size());
}

std::vector<Value> Evaluator::items_of(const Value& value) {
    if (value.is_undefined()) return {};
    std::vector<Value> items;
    if (const Sequence* sequence = value.as_sequence()) {
        charge(sequence->items.size());
        if (sequence->form == Sequence::Form::kGenerator) {
            Sequence& generator = **value.get<std::shared_ptr<Sequence>>();
            items.assign(generator.items.begin() + static_cast<std::ptrdiff_t>(generator.consumed),
                         generator.items.end());
            generator.consumed = generator.items.size();
            return items;
        }
        return sequence->items;
    }
    if (const Dict* dict = value.as_dict()) {
        charge(dict->entries.size());
        for (const auto& entry : dict->entries) items.push_back(entry.first);
        return items;
    }
    if (const std::string* text = value.as_text()) {
        charge(text->size());
        for (std::size_t i = 0; i < text->size();) {
            const std::size_t begin = i;
            next_code_point(*text, i);
            items.push_back(Value::text(text->substr(begin, i - begin)));
        }
        return items;
    }
    throw TemplateError(
        fmt::format("a value of type {} cannot be iterated over", value.type_name()));
}

std::vector<Value> Evaluator::loop_items(const Statement& statement, Scope* scope) {
    std::vector<Value> items = items_of(evaluate(*statement.value, scope));
    if (statement.condition == nullptr) return items;
    std::vector<Value> kept;
    for (Value& value : items) {
        Scope* inner = open_scope(scope);
        assign(statement.target, value, inner);
        if (evaluate(*statement.condition, inner).truthy()) kept.push_back(std::move(value));
        close_scope(inner);
    }
    return kept;
}

Evaluator::Flow Evaluator::execute_for(const Statement& statement, Scope* scope) {
    auto loop = std::make_shared<Loop>();
    loop->items = loop_items(statement, scope);
    for (const Value& value : loop->items)
        loop->nesting = std::max(loop->nesting, value.nesting() + 1);
    const Value loop_value{Value::Data(loop)};
    for (; loop->index < loop->items.size(); ++loop->index) {
        Scope* inner = open_scope(scope);
        inner->names["loop"] = loop_value;
        assign(statement.target, loop->items[loop->index], inner);
        const Flow flow = execute(statement.body, inner);
        close_scope(inner);
        if (flow == Flow::kBreak) break;
    }
    if (!loop->items.empty()) return Flow::kNext;
    Scope* inner = open_scope(scope);
    const Flow flow = execute(statement.otherwise, inner);
    close_scope(inner);
    return flow;
}

void Evaluator::assign(const Target& target, const Value& value, Scope* scope) {
    if (!target.targets.empty()) {
        const std::vector<Value> items = items_of(value);
        if (items.size() != target.targets.size()) {
            throw TemplateError(fmt::format("cannot unpack {} values into {} names", items.size(),
                                            target.targets.size()));
        }
        for (std::size_t i = 0; i < items.size(); ++i) assign(target.targets[i], items[i], scope);
        return;
    }
    if (target.attribute.empty()) {
        scope->names[target.name] = value;
        return;
    }
    Value object;
    for (Scope* outer = scope; outer != nullptr && object.is_undefined(); outer = outer->parent) {
        if (const auto found = outer->names.find(target.name); found != outer->names.end())
            object = found->second;
    }
    const auto* space = object.get<Namespace*>();
    if (space == nullptr) {
        throw TemplateError(fmt::format("cannot assign {}.{}: {} is not a namespace", target.name,
                                        target.attribute, target.name));
    }
    if (Value* old = (*space)->find(target.attribute)) {
        *old = value;
    } else {
        charge((*space)->attributes.size());
        (*space)->attributes.emplace_back(target.attribute, value);
    }
}

Value Evaluator::make_macro(const Statement& statement, std::string name, Scope* scope) const {
    for (Scope* outer = scope; outer != nullptr && !outer->captured; outer = outer->parent)
        outer->captured = true;
    return Value(Value::Data(std::make_shared<const Callable>(
        Callable{Callable::Kind::kMacro, std::move(name), {}, &statement, scope})));
}

Value Evaluator::call_macro(const Callable& macro, const Arguments& arguments) {
    const Statement& statement = *macro.macro;
    Scope* scope = open_scope(macro.scope);
    const std::size_t count = statement.parameters.size();
    std::vector<Value> more;
    for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
        if (i < count) {
            scope->names[statement.parameters[i]] = arguments.positional[i];
        } else {
            more.push_back(arguments.positional[i]);
        }
    }
    std::vector<std::pair<Value, Value>> more_named;
    for (const auto& [name, value] : arguments.named) {
        const auto parameter =
            std::find(statement.parameters.begin(), statement.parameters.end(), name);
        if (parameter != statement.parameters.end()) {
            scope->names[*parameter] = value;
        } else if (name == "caller") {
            scope->names["caller"] = value;
        } else {
            more_named.emplace_back(Value::text(name), value);
        }
    }
    for (std::size_t i = 0; i < count; ++i) {
        const std::string& name = statement.parameters[i];
        if (scope->names.contains(name)) continue;
        scope->names[name] =
            statement.defaults[i] != nullptr
                ? evaluate(*statement.defaults[i], scope)
                : Value::undefined(fmt::format("parameter '{}' was not provided", name));
    }
    scope->names["varargs"] = Value::tuple(std::move(more));
    scope->names["kwargs"] = Value::dict(std::move(more_named));
    const int line = line_;
    Value result = text(capture(statement.body, scope));
    line_ = line;
    close_scope(scope);
    return result;
}

Value Evaluator::call(const Value& function, const Arguments& arguments) {
    const auto* callable = function.get<std::shared_ptr<const Callable>>();
    if (callable == nullptr) {
        if (const auto* undefined = function.get<Undefined>();
            undefined != nullptr && undefined->why != nullptr) {
            throw TemplateError(*undefined->why);
        }
        throw TemplateError(
            fmt::format("a value of type {} cannot be called", function.type_name()));
    }
    const Deeper guard(*this);
    switch ((*callable)->kind) {
        case Callable::Kind::kMacro:
            return call_macro(**callable, arguments);
        case Callable::Kind::kMethod:
            return call_method(**callable, arguments);
        case Callable::Kind::kGlobal:
            break;
    }
    if ((*callable)->name == "namespace") {
        Namespace& space = namespaces_.emplace_back();
        for (const Value& source : arguments.positional) {
            const Dict* dict = source.as_dict();
            if (dict == nullptr)
                throw TemplateError("namespace() takes a dict and keyword arguments");
            for (const auto& [key, value] : dict->entries)
                space.attributes.emplace_back(to_text(key), value);
        }
        for (const auto& [name, value] : arguments.named) {
            if (Value* old = space.find(name)) {
                *old = value;
            } else {
                space.attributes.emplace_back(name, value);
            }
        }
        return Value(Value::Data(&space));
    }
    if ((*callable)->name == "strftime_now" && clock_.has_value()) {
        Arguments with_clock = arguments;
        with_clock.named.emplace_back("clock", Value::integer(*clock_));
        return call_global(**callable, with_clock);
    }
    return call_global(**callable, arguments);
}

// Expressions.

Value Evaluator::evaluate(const Expression& expression, Scope* scope) {
    using Type = Expression::Type;
    const Deeper guard(*this);
    charge(1);
    const auto operand = [&](std::size_t index) {
        return evaluate(*expression.operands[index], scope);
    };
    switch (expression.type) {
        case Type::kConstant:
            return expression.constant;
        case Type::kName:
            return evaluate_name(expression, scope);
        case Type::kList:
        case Type::kTuple: {
            std::vector<Value> items;
            for (const auto& part : expression.operands) items.push_back(evaluate(*part, scope));
            return expression.type == Type::kList ? Value::list(std::move(items))
                                                  : Value::tuple(std::move(items));
        }
        case Type::kDict:
            return evaluate_dict(expression, scope);
        case Type::kAttribute:
            return attribute(operand(0), expression.name);
        case Type::kItem: {
            const Value object = operand(0);
            return item(object, operand(1));
        }
        case Type::kSlice:
            return evaluate_slice(expression, scope);
        case Type::kCall: {
            const Value function = operand(0);
            return call(function, evaluate_arguments(expression, scope));
        }
        case Type::kFilter:
            return evaluate_filter(expression, nullptr, scope);
        case Type::kTest: {
            const Value input = operand(0);
            return Value::boolean(
                apply_test(expression.name, input, evaluate_arguments(expression, scope)));
        }
        case Type::kUnary:
            return evaluate_unary(expression, scope);
        case Type::kBinary: {
            const Value left = operand(0);
            return binary(expression.name, left, operand(1));
        }
        case Type::kConcat: {
            std::string joined;
            for (const auto& part : expression.operands) joined += to_text(evaluate(*part, scope));
            return text(std::move(joined));
        }
        case Type::kCompare:
            return evaluate_compare(expression, scope);
        case Type::kAnd: {
            Value left = operand(0);
            return left.truthy() ? operand(1) : left;
        }
        case Type::kOr: {
            Value left = operand(0);
            return left.truthy() ? left : operand(1);
        }
        case Type::kIf:
            break;
    }
    if (operand(0).truthy()) return operand(1);
    if (expression.operands[2] != nullptr) return operand(2);
    return Value::undefined(
        "the inline if-expression evaluated to false and no else section was defined");
}

Value Evaluator::evaluate_name(const Expression& expression, Scope* scope) const {
    for (const Scope* outer = scope; outer != nullptr; outer = outer->parent) {
        const auto found = outer->names.find(expression.name);
        if (found != outer->names.end()) return found->second;
    }
    return Value::undefined(fmt::format("'{}' is undefined", expression.name));
}

Value Evaluator::evaluate_dict(const Expression& expression, Scope* scope) {
    std::vector<std::pair<Value, Value>> entries;
    for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
        Value key = evaluate(*expression.operands[i], scope);
        Value value = evaluate(*expression.operands[i + 1], scope);
        if (key.nesting() > 0) throw TemplateError("a list or dict cannot be a key");
        charge(entries.size() / 8);
        const auto old = std::find_if(entries.begin(), entries.end(),
                                      [&](const auto& entry) { return equal(entry.first, key); });
        if (old != entries.end()) {
            old->second = std::move(value);
        } else {
            entries.emplace_back(std::move(key), std::move(value));
        }
    }
    return Value::dict(std::move(entries));
}

Value Evaluator::evaluate_slice(const Expression& expression, Scope* scope) {
    const Value object = evaluate(*expression.operands[0], scope);
    Value bounds[3];
    const Value* given[3] = {};
    for (std::size_t i = 0; i < 3; ++i) {
        if (expression.operands[i + 1] == nullptr) continue;
        bounds[i] = evaluate(*expression.operands[i + 1], scope);
        if (!bounds[i].is_none()) given[i] = &bounds[i];
    }
    return slice(object, given[0], given[1], given[2]);
}

Value Evaluator::evaluate_compare(const Expression& expression, Scope* scope) {
    Value left = evaluate(*expression.operands[0], scope);
    for (std::size_t i = 0; i < expression.operators.size(); ++i) {
        Value right = evaluate(*expression.operands[i + 1], scope);
        if (!compare(expression.operators[i], left, right)) return Value::boolean(false);
        left = std::move(right);
    }
    return Value::boolean(true);
}

Value Evaluator::evaluate_unary(const Expression& expression, Scope* scope) {
    const Value operand = evaluate(*expression.operands[0], scope);
    if (expression.name == "not") return Value::boolean(!operand.truthy());
    if (!operand.is_number()) {
        throw TemplateError(
            fmt::format("bad operand type for unary {}: {}", expression.name, operand.type_name()));
    }
    if (expression.name == "-") return binary("*", operand, Value::integer(-1));
    return operand.is_integral() ? Value::integer(operand.as_integer()) : operand;
}

Value Evaluator::evaluate_filter(const Expression& expression, const Value* block_text,
                                 Scope* scope) {
    const Deeper guard(*this);
    Value input;
    if (expression.operands[0] == nullptr) {
        input = *block_text;
    } else if (block_text != nullptr) {
        input = evaluate_filter(*expression.operands[0], block_text, scope);
    } else {
        input = evaluate(*expression.operands[0], scope);
    }
    return apply_filter(expression.name, input, evaluate_arguments(expression, scope));
}

Arguments Evaluator::evaluate_arguments(const Expression& expression, Scope* scope) {
    Arguments arguments;
    for (std::size_t i = 1; i < expression.operands.size(); ++i) {
        Value value = evaluate(*expression.operands[i], scope);
        if (expression.star_arguments && i + 1 == expression.operands.size()) {
            for (Value& part : items_of(value)) arguments.positional.push_back(std::move(part));
        } else {
            arguments.positional.push_back(std::move(value));
        }
    }
    for (const auto& [name, part] : expression.keywords) {
        Value value = evaluate(*part, scope);
        if (!name.empty()) {
            arguments.named.emplace_back(name, std::move(value));
            continue;
        }
        const Dict* dict = value.as_dict();
        if (dict == nullptr) throw TemplateError("** takes a dict");
        for (const auto& entry : dict->entries)
            arguments.named.emplace_back(to_text(entry.first), entry.second);
    }
    return arguments;
}

}  // namespace qshard::jinja
