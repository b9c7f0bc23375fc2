#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/chat/evaluator.h"
#include "io/chat/text.h"

/// Attributes, items, slices, arithmetic and comparison: what Python's operators do on a template's
/// values.
namespace qshard::jinja {
namespace {

[[noreturn]] void fail_undefined(const Value& value) {
    const auto* undefined = value.get<Undefined>();
    throw TemplateError(undefined->why != nullptr ? *undefined->why : "an undefined value is used");
}

Value missing(const Value& object, const std::string& name) {
    return Value::undefined(
        fmt::format("'{} object' has no attribute {}", object.type_name(), repr(name)));
}

bool has_method(const Value& object, std::string_view name) {
    static constexpr std::string_view kText[] = {
        "capitalize", "count",      "endswith",  "find",         "format",       "index",
        "isalpha",    "isdigit",    "islower",   "isspace",      "isupper",      "join",
        "lower",      "lstrip",     "partition", "removeprefix", "removesuffix", "replace",
        "rfind",      "rpartition", "rsplit",    "rstrip",       "split",        "splitlines",
        "startswith", "strip",      "title",     "upper",        "isalnum",      "zfill"};
    static constexpr std::string_view kDict[] = {"copy", "get", "items", "keys", "values"};
    static constexpr std::string_view kList[] = {"copy", "count", "index"};
    const auto among = [&](const auto& names) {
        return std::find(std::begin(names), std::end(names), name) != std::end(names);
    };
    if (object.as_text() != nullptr) return among(kText);
    if (object.as_dict() != nullptr) return among(kDict);
    const Sequence* sequence = object.as_sequence();
    return sequence != nullptr && sequence->form != Sequence::Form::kGenerator && among(kList);
}

/// Methods that change their object: the sandbox refuses them.
bool is_mutator(const Value& object, std::string_view name) {
    static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    static constexpr std::string_view kList[] = {"append", "clear",  "extend",  "insert",
                                                 "pop",    "remove", "reverse", "sort"};
    const Sequence* sequence = object.as_sequence();
    if (object.as_dict() != nullptr)
        return std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict);
    return sequence != nullptr && sequence->form == Sequence::Form::kList &&
           std::find(std::begin(kList), std::end(kList), name) != std::end(kList);
}

Value neighbour(const Loop& loop, std::size_t index, const char* which) {
    return index < loop.items.size() ? loop.items[index]
                                     : Value::undefined(fmt::format("there is no {} item", which));
}

Value loop_attribute(const Value& self, const Loop& loop, const std::string& name) {
    const auto index = static_cast<std::int64_t>(loop.index),
               count = static_cast<std::int64_t>(loop.items.size());
    if (name == "index") return Value::integer(index + 1);
    if (name == "index0") return Value::integer(index);
    if (name == "revindex") return Value::integer(count - index);
    if (name == "revindex0") return Value::integer(count - index - 1);
    if (name == "length") return Value::integer(count);
    if (name == "first") return Value::boolean(index == 0);
    if (name == "last") return Value::boolean(index + 1 == count);
    // Only recursive loops, which are not supported, go deeper.
    if (name == "depth") return Value::integer(1);
    if (name == "depth0") return Value::integer(0);
    if (name == "previtem") return neighbour(loop, loop.index - 1, "previous");
    if (name == "nextitem") return neighbour(loop, loop.index + 1, "next");
    if (name == "cycle" || name == "changed") {
        return Value(Value::Data(std::make_shared<const Callable>(
            Callable{Callable::Kind::kMethod, name, self, nullptr, nullptr})));
    }
    return missing(self, name);
}

}  // namespace

Value Evaluator::attribute(const Value& object, const std::string& name) {
    if (object.is_undefined()) fail_undefined(object);
    if (const auto* loop = object.get<std::shared_ptr<Loop>>())
        return loop_attribute(object, **loop, name);
    if (const auto* space = object.get<Namespace*>()) {
        const Value* value = (*space)->find(name);
        return value != nullptr ? *value : missing(object, name);
    }
    if (is_mutator(object, name)) {
        throw TemplateError(fmt::format("{}() would change a {}, which templates may not", name,
                                        object.type_name()));
    }
    if (has_method(object, name)) {
        return Value(Value::Data(std::make_shared<const Callable>(
            Callable{Callable::Kind::kMethod, name, object, nullptr, nullptr})));
    }
    if (const Dict* dict = object.as_dict()) {
        charge(dict->entries.size() / 16);
        if (const Value* value = dict->find(std::string_view(name))) return *value;
    }
    return missing(object, name);
}

Value Evaluator::item(const Value& object, const Value& key) {
    if (object.is_undefined()) fail_undefined(object);
    if (const Dict* dict = object.as_dict()) {
        charge(dict->entries.size() / 16);
        const Value* value = key.nesting() == 0 ? dict->find(key) : nullptr;
        if (value != nullptr) return *value;
    } else if (key.is_integral()) {
        const std::int64_t index = key.as_integer();
        const auto absolute = [&](std::int64_t count) { return index < 0 ? index + count : index; };
        if (const Sequence* sequence = object.as_sequence();
            sequence != nullptr && sequence->form != Sequence::Form::kGenerator) {
            const std::int64_t at = absolute(static_cast<std::int64_t>(sequence->items.size()));
            if (at >= 0 && at < static_cast<std::int64_t>(sequence->items.size())) {
                return sequence->items[static_cast<std::size_t>(at)];
            }
        } else if (const std::string* text_value = object.as_text()) {
            charge(text_value->size() / 8);
            const auto offsets = code_point_offsets(*text_value);
            const std::int64_t at = absolute(static_cast<std::int64_t>(offsets.size()) - 1);
            if (at >= 0 && at + 1 < static_cast<std::int64_t>(offsets.size())) {
                const auto i = static_cast<std::size_t>(at);
                return Value::text(text_value->substr(offsets[i], offsets[i + 1] - offsets[i]));
            }
        }
        return Value::undefined(
            fmt::format("'{} object' has no element {}", object.type_name(), index));
    }
    if (const std::string* name = key.as_text()) return attribute(object, *name);
    return Value::undefined(fmt::format("'{} object' has no such element", object.type_name()));
}

Value Evaluator::slice(const Value& object, const Value* begin, const Value* end,
                       const Value* step) {
    if (object.is_undefined()) fail_undefined(object);
    const Sequence* sequence = object.as_sequence();
    const std::string* string = object.as_text();
    if (string == nullptr &&
        (sequence == nullptr || sequence->form == Sequence::Form::kGenerator)) {
        return Value::undefined(
            fmt::format("a value of type {} cannot be sliced", object.type_name()));
    }
    for (const Value* bound : {begin, end, step}) {
        if (bound != nullptr && !bound->is_integral())
            throw TemplateError("slice bounds must be integers");
    }
    std::vector<std::size_t> offsets;
    if (string != nullptr) offsets = code_point_offsets(*string);
    const auto count =
        static_cast<std::int64_t>(string != nullptr ? offsets.size() - 1 : sequence->items.size());
    charge(static_cast<std::size_t>(count) / (string != nullptr ? 8 : 1));
    const std::int64_t stride = step != nullptr ? step->as_integer() : 1;
    if (stride == 0) throw TemplateError("the step of a slice is zero");
    const std::int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? count : count - 1;
    const auto clamp = [&](const Value* bound, std::int64_t otherwise) {
        if (bound == nullptr) return otherwise;
        const std::int64_t at = bound->as_integer();
        return std::clamp(at < 0 ? at + count : at, low, high);
    };
    const std::int64_t from = clamp(begin, stride > 0 ? low : high),
                       to = clamp(end, stride > 0 ? high : low);
    std::vector<Value> items;
    std::string out;
    for (std::int64_t i = from; stride > 0 ? i < to : i > to;) {
        const auto at = static_cast<std::size_t>(i);
        if (string != nullptr) {
            out += std::string_view(*string).substr(offsets[at], offsets[at + 1] - offsets[at]);
        } else {
            items.push_back(sequence->items[at]);
        }
        // A stride beyond the count ends the walk; adding it could overflow.
        if (stride >= count || stride <= -count) break;
        i += stride;
    }
    if (string != nullptr) return text(std::move(out));
    return sequence->form == Sequence::Form::kTuple ? Value::tuple(std::move(items))
                                                    : list(std::move(items));
}

namespace {

[[noreturn]] void fail_overflow() {
    throw TemplateError("an integer does not fit 64 bits");
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
    if (b == -1) {
        std::int64_t negative = 0;
        if (__builtin_mul_overflow(a, std::int64_t{-1}, &negative)) fail_overflow();
        return negative;
    }
    const std::int64_t quotient = a / b;
    return quotient * b != a && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

Value integer_power(std::int64_t base, std::int64_t exponent) {
    std::int64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return Value::integer(result);
}

Value integer_binary(const std::string& symbol, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    if (symbol == "+"   ? __builtin_add_overflow(a, b, &result)
        : symbol == "-" ? __builtin_sub_overflow(a, b, &result)
        : symbol == "*" ? __builtin_mul_overflow(a, b, &result)
                        : false) {
        fail_overflow();
    }
    if (symbol == "+" || symbol == "-" || symbol == "*") return Value::integer(result);
    if (symbol == "**") {
        return b >= 0 ? integer_power(a, b)
                      : Value::real(std::pow(static_cast<double>(a), static_cast<double>(b)));
    }
    if (b == 0) throw TemplateError("division by zero");
    if (symbol == "/") return Value::real(static_cast<double>(a) / static_cast<double>(b));
    if (symbol == "//") return Value::integer(floor_divide(a, b));
    return Value::integer(b == -1 ? 0 : a - floor_divide(a, b) * b);
}

Value real_binary(const std::string& symbol, double a, double b) {
    if (symbol == "+") return Value::real(a + b);
    if (symbol == "-") return Value::real(a - b);
    if (symbol == "*") return Value::real(a * b);
    if (symbol == "**") return Value::real(std::pow(a, b));
    if (b == 0) throw TemplateError("division by zero");
    if (symbol == "/") return Value::real(a / b);
    double remainder = std::fmod(a, b);
    if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
    if (symbol == "%") return Value::real(remainder);
    return Value::real(std::floor((a - remainder) / b + 0.5));
}

/// text % arguments, for %s, %d, %r and %%.
std::string percent_format(const std::string& format, const Value& argument) {
    std::vector<Value> arguments{argument};
    if (const Sequence* tuple = argument.as_sequence();
        tuple != nullptr && tuple->form == Sequence::Form::kTuple) {
        arguments = tuple->items;
    }
    std::string out;
    std::size_t next = 0;
    for (std::size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            out += format[i];
            continue;
        }
        const char kind = ++i < format.size() ? format[i] : '\0';
        if (kind == '%') {
            out += '%';
            continue;
        }
        if (kind != 's' && kind != 'd' && kind != 'r')
            throw TemplateError("% on text supports %s, %d, %r and %% only");
        if (next >= arguments.size()) throw TemplateError("not enough arguments for the format");
        const Value& value = arguments[next++];
        if (kind == 'd' && !value.is_number()) throw TemplateError("%d takes a number");
        if (kind == 'd') {
            out += value.is_integral() ? std::to_string(value.as_integer())
                                       : fmt::format("{:.0f}", std::trunc(value.as_real()));
        } else if (kind == 's') {
            out += to_text(value);
        } else {
            append_repr(out, value);
        }
    }
    if (next != arguments.size())
        throw TemplateError("not all arguments were converted by the format");
    return out;
}

}  // namespace

Value Evaluator::binary(const std::string& symbol, const Value& left, const Value& right) {
    if (left.is_undefined()) fail_undefined(left);
    if (left.is_integral() && right.is_integral())
        return integer_binary(symbol, left.as_integer(), right.as_integer());
    if (left.is_number() && right.is_number())
        return real_binary(symbol, left.as_real(), right.as_real());
    const std::string *text_left = left.as_text(), *text_right = right.as_text();
    const Sequence *list_left = left.as_sequence(), *list_right = right.as_sequence();
    if (symbol == "%" && text_left != nullptr) return text(percent_format(*text_left, right));
    if (right.is_undefined()) fail_undefined(right);
    if (symbol == "+" && text_left != nullptr && text_right != nullptr)
        return text(*text_left + *text_right);
    if (symbol == "+" && list_left != nullptr && list_right != nullptr &&
        list_left->form == list_right->form && list_left->form != Sequence::Form::kGenerator) {
        std::vector<Value> items = list_left->items;
        items.insert(items.end(), list_right->items.begin(), list_right->items.end());
        charge(items.size());
        return list_left->form == Sequence::Form::kTuple ? Value::tuple(std::move(items))
                                                         : Value::list(std::move(items));
    }
    if (symbol == "*" && left.is_integral() && !right.is_number())
        return binary(symbol, right, left);
    if (symbol == "*" && right.is_integral() && (text_left != nullptr || list_left != nullptr)) {
        const auto times = static_cast<std::size_t>(std::max<std::int64_t>(right.as_integer(), 0));
        const std::size_t count =
            text_left != nullptr ? text_left->size() : list_left->items.size();
        if (count > 0 && times > kMaxTextBytes / count)
            throw TemplateError("a repetition is too large");
        charge(text_left != nullptr ? count * times / 32 : count * times);
        std::string repeated;
        std::vector<Value> items;
        for (std::size_t i = 0; i < times && count > 0; ++i) {
            if (text_left != nullptr) {
                repeated += *text_left;
            } else {
                items.insert(items.end(), list_left->items.begin(), list_left->items.end());
            }
        }
        if (text_left != nullptr) return Value::text(std::move(repeated));
        return list_left->form == Sequence::Form::kTuple ? Value::tuple(std::move(items))
                                                         : Value::list(std::move(items));
    }
    throw TemplateError(fmt::format("unsupported operand types for {}: {} and {}", symbol,
                                    left.type_name(), right.type_name()));
}

bool Evaluator::contains(const Value& container, const Value& needle) {
    if (const std::string* string = container.as_text()) {
        if (needle.is_undefined()) fail_undefined(needle);
        const std::string* part = needle.as_text();
        if (part == nullptr)
            throw TemplateError(
                fmt::format("'in <text>' requires text, not {}", needle.type_name()));
        charge(string->size() / 32);
        return find_text(*string, *part) != std::string_view::npos;
    }
    if (const Dict* dict = container.as_dict()) {
        charge(dict->entries.size() / 16);
        return needle.nesting() == 0 && dict->find(needle) != nullptr;
    }
    const std::vector<Value> items = items_of(container);
    return std::any_of(items.begin(), items.end(),
                       [&](const Value& value) { return compare("==", value, needle); });
}

namespace {

/// Values visited by comparing or printing `value`, up to `limit`: shared containers make trees
/// much larger than the memory they take.
std::size_t tree_count(const Value& value, std::size_t limit) {
    std::size_t count = 1;
    if (const Sequence* sequence = value.as_sequence()) {
        for (const Value& part : sequence->items) {
            if (count > limit) break;
            count += tree_count(part, limit - count);
        }
    } else if (const Dict* dict = value.as_dict()) {
        for (const auto& entry : dict->entries) {
            if (count > limit) break;
            count += tree_count(entry.second, limit - count);
        }
        // Each key is looked for among the other dict's.
        count += dict->entries.size() * dict->entries.size() / 16;
    } else if (const std::string* text = value.as_text()) {
        count += text->size() / 32;
    }
    return count;
}

}  // namespace

std::size_t tree_size(const Value& value) {
    return tree_count(value, kMaxSteps);
}

bool Evaluator::compare(const std::string& symbol, const Value& left, const Value& right) {
    if (symbol == "in") return contains(right, left);
    if (symbol == "not in") return !contains(right, left);
    if (left.nesting() > 0 && right.nesting() > 0) charge(tree_size(left));
    if (symbol == "==") return equal(left, right);
    if (symbol == "!=") return !equal(left, right);
    if (left.is_undefined()) fail_undefined(left);
    if (right.is_undefined()) fail_undefined(right);
    if (symbol == "<") return less(left, right);
    if (symbol == ">") return less(right, left);
    if (symbol == "<=") return less(left, right) || equal(left, right);
    return less(right, left) || equal(left, right);
}

}  // namespace qshard::jinja
