#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <set>
#include <unordered_map>

#include "io/chat/evaluator.h"
#include "io/chat/text.h"

/// Jinja's filters and tests, as far as chat templates use them.
namespace qshard::jinja {

Parameters::Parameters(std::string_view function, const Arguments& arguments,
                       std::initializer_list<std::string_view> names)
    : function_(function), names_(names), values_(names.size()) {
    if (arguments.positional.size() > names_.size()) {
        throw TemplateError(fmt::format("{} takes at most {} arguments", function, names_.size()));
    }
    for (std::size_t i = 0; i < arguments.positional.size(); ++i)
        values_[i] = arguments.positional[i];
    for (const auto& [name, value] : arguments.named) {
        const auto found = std::find(names_.begin(), names_.end(), name);
        if (found == names_.end())
            throw TemplateError(fmt::format("{} has no argument '{}'", function, name));
        values_[static_cast<std::size_t>(found - names_.begin())] = value;
    }
}

const Value& Parameters::at(std::size_t index) const {
    if (!has(index))
        throw TemplateError(fmt::format("{} needs the argument '{}'", function_, names_[index]));
    return *values_[index];
}

std::string Parameters::text(std::size_t index, std::string_view otherwise) const {
    return has(index) ? to_text(*values_[index]) : std::string(otherwise);
}

std::int64_t Parameters::integer(std::size_t index, std::int64_t otherwise) const {
    if (!has(index)) return otherwise;
    if (!values_[index]->is_integral()) {
        throw TemplateError(
            fmt::format("{}: the argument '{}' must be an integer", function_, names_[index]));
    }
    return values_[index]->as_integer();
}

bool Parameters::flag(std::size_t index, bool otherwise) const {
    return has(index) ? values_[index]->truthy() : otherwise;
}

namespace {

using Filter = std::function<Value(Evaluator&, const Value&, const Arguments&)>;

Value ignore_case(Evaluator& evaluator, const Value& value) {
    const std::string* text = value.as_text();
    return text != nullptr ? evaluator.text(lower(*text)) : value;
}

/// item['a']['b'][0] for the attribute "a.b.0".
Value attribute_path(Evaluator& evaluator, Value value, const Value& path,
                     const Value* otherwise = nullptr) {
    if (path.is_none()) return value;
    if (path.as_text() == nullptr) return evaluator.item(value, path);
    for (const std::string& part : split(*path.as_text(), ".", -1, false)) {
        const bool number = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
            return c >= '0' && c <= '9';
        });
        std::int64_t index = 0;
        if (number) std::from_chars(part.data(), part.data() + part.size(), index);
        value = evaluator.item(value, number ? Value::integer(index) : Value::text(part));
        if (value.is_undefined() && otherwise != nullptr) value = *otherwise;
    }
    return value;
}

struct Keyed {
    Value key;
    Value value;
};

std::vector<Keyed> keyed(Evaluator& evaluator, const Value& input, const Value& path,
                         bool case_sensitive) {
    std::vector<Keyed> items;
    for (const Value& value : evaluator.items_of(input)) {
        Value key = attribute_path(evaluator, value, path);
        evaluator.charge(tree_size(key));
        items.push_back({case_sensitive ? key : ignore_case(evaluator, key), value});
    }
    return items;
}

void sort_keyed(Evaluator& evaluator, std::vector<Keyed>& items, bool reverse) {
    std::size_t steps = 0;
    for (const Keyed& one : items) steps += tree_size(one.key);
    for (std::size_t count = items.size(); count > 1; count /= 2) evaluator.charge(steps);
    // A reversed sort keeps the order of equals, as Python's does.
    std::stable_sort(items.begin(), items.end(), [reverse](const Keyed& a, const Keyed& b) {
        return reverse ? less(b.key, a.key) : less(a.key, b.key);
    });
}

std::vector<Value> values_of(std::vector<Keyed> items) {
    std::vector<Value> values;
    for (Keyed& one : items) values.push_back(std::move(one.value));
    return values;
}

Value given(const Parameters& parameters, std::size_t index) {
    return parameters.has(index) ? parameters.at(index) : Value::none();
}

Value sort_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("sort", arguments, {"reverse", "case_sensitive", "attribute"});
    auto items = keyed(evaluator, input, given(p, 2), p.flag(1, false));
    sort_keyed(evaluator, items, p.flag(0, false));
    return Value::list(values_of(std::move(items)));
}

Value dictsort_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("dictsort", arguments, {"case_sensitive", "by", "reverse"});
    const std::string by = p.text(1, "key");
    if (input.as_dict() == nullptr || (by != "key" && by != "value")) {
        throw TemplateError("dictsort takes a dict, and by = 'key' or 'value'");
    }
    std::vector<Keyed> items;
    for (const auto& [key, value] : input.as_dict()->entries) {
        const Value& by_value = by == "key" ? key : value;
        items.push_back({p.flag(0, false) ? by_value : ignore_case(evaluator, by_value),
                         Value::tuple({key, value})});
    }
    sort_keyed(evaluator, items, p.flag(2, false));
    return Value::list(values_of(std::move(items)));
}

Value unique_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("unique", arguments, {"case_sensitive", "attribute"});
    std::set<std::string> seen;
    std::vector<Value> kept;
    for (Keyed& one : keyed(evaluator, input, given(p, 1), p.flag(0, false))) {
        std::string key;
        append_repr(key, one.key);
        if (seen.insert(key).second) kept.push_back(std::move(one.value));
    }
    return Value::generator(std::move(kept));
}

Value extreme_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments,
                     bool largest) {
    const Parameters p(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
    const auto items = keyed(evaluator, input, given(p, 1), p.flag(0, false));
    if (items.empty()) return Value::undefined("no aggregated item, sequence was empty");
    const Keyed* best = &items[0];
    for (const Keyed& one : items) {
        if (largest ? less(best->key, one.key) : less(one.key, best->key)) best = &one;
    }
    return best->value;
}

Value sum_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("sum", arguments, {"attribute", "start"});
    Value total = p.has(1) ? p.at(1) : Value::integer(0);
    for (const Value& value : evaluator.items_of(input)) {
        total = evaluator.binary("+", total, attribute_path(evaluator, value, given(p, 0)));
    }
    return total;
}

Value join_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("join", arguments, {"d", "attribute"});
    const std::string separator = p.text(0, "");
    std::string joined;
    bool first = true;
    for (const Value& value : evaluator.items_of(input)) {
        if (!std::exchange(first, false)) joined += separator;
        joined += to_text(attribute_path(evaluator, value, given(p, 1)));
        if (joined.size() > kMaxTextBytes) throw TemplateError("join: the text is too large");
    }
    return evaluator.text(std::move(joined));
}

Value map_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    std::vector<Value> mapped;
    if (arguments.positional.empty()) {
        const Parameters p("map", arguments, {"attribute", "default"});
        const Value* otherwise = p.has(1) && !p.at(1).is_none() ? &p.at(1) : nullptr;
        for (const Value& value : evaluator.items_of(input)) {
            mapped.push_back(attribute_path(evaluator, value, p.at(0), otherwise));
        }
    } else {
        Arguments rest = arguments;
        rest.positional.erase(rest.positional.begin());
        for (const Value& value : evaluator.items_of(input)) {
            mapped.push_back(evaluator.apply_filter(to_text(arguments.positional[0]), value, rest));
        }
    }
    return Value::generator(std::move(mapped));
}

Value select_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments,
                    bool by_attribute, bool wanted) {
    const std::size_t first = by_attribute ? 1 : 0;
    if (arguments.positional.size() < first)
        throw TemplateError("selectattr and rejectattr need an attribute name");
    Arguments rest = arguments;
    const bool tested = arguments.positional.size() > first;
    rest.positional.erase(
        rest.positional.begin(),
        rest.positional.begin() + static_cast<std::ptrdiff_t>(first + (tested ? 1 : 0)));
    std::vector<Value> kept;
    for (const Value& value : evaluator.items_of(input)) {
        const Value subject =
            by_attribute ? attribute_path(evaluator, value, arguments.positional[0]) : value;
        const bool holds =
            tested ? evaluator.apply_test(to_text(arguments.positional[first]), subject, rest)
                   : subject.truthy();
        if (holds == wanted) kept.push_back(value);
    }
    return Value::generator(std::move(kept));
}

Value tojson_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
    JsonStyle style;
    style.ensure_ascii = p.flag(0, false);
    style.sort_keys = p.flag(3, false);
    if (p.has(1) && !p.at(1).is_none()) {
        style.multiline = true;
        style.item_separator = std::string(1, ',');
        style.indent =
            p.at(1).as_text() != nullptr
                ? *p.at(1).as_text()
                : std::string(
                      static_cast<std::size_t>(std::clamp<std::int64_t>(p.integer(1, 0), 0, 64)),
                      ' ');
    }
    if (p.has(2) && !p.at(2).is_none()) {
        const auto separators = evaluator.items_of(p.at(2));
        if (separators.size() != 2) throw TemplateError("tojson: separators must be a pair");
        style.item_separator = to_text(separators[0]);
        style.key_separator = to_text(separators[1]);
    }
    return evaluator.text(to_json(input, style));
}

Value indent_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("indent", arguments, {"width", "first", "blank"});
    const std::string indent =
        p.has(0) && p.at(0).as_text() != nullptr
            ? *p.at(0).as_text()
            : std::string(
                  static_cast<std::size_t>(std::clamp<std::int64_t>(p.integer(0, 4), 0, 1000)),
                  ' ');
    const auto lines = split_lines(to_text(input) + "\n", false);
    evaluator.charge(lines.size() * (1 + indent.size() / 32));
    std::string out = p.flag(1, false) ? indent : std::string();
    for (std::size_t i = 0; i < lines.size(); ++i) {
        if (i > 0) out += '\n';
        if (i > 0 && (p.flag(2, false) || !lines[i].empty())) out += indent;
        out += lines[i];
    }
    return evaluator.text(std::move(out));
}

std::optional<double> parse_real(const std::string& text) {
    const std::string_view trimmed = strip(text, std::nullopt, true, true);
    std::string digits(trimmed.starts_with('+') ? trimmed.substr(1) : trimmed);
    double value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (digits.empty() || result.ec != std::errc() || result.ptr != digits.data() + digits.size())
        return std::nullopt;
    return value;
}

Value int_filter(Evaluator&, const Value& input, const Arguments& arguments) {
    const Parameters p("int", arguments, {"default", "base"});
    if (input.is_undefined()) throw TemplateError("int of an undefined value");
    const Value otherwise = p.has(0) ? p.at(0) : Value::integer(0);
    if (input.is_integral()) return Value::integer(input.as_integer());
    std::optional<double> real;
    if (input.is_number()) real = input.as_real();
    if (const std::string* text = input.as_text()) {
        std::string_view digits = strip(*text, std::nullopt, true, true);
        if (digits.starts_with('+')) digits.remove_prefix(1);
        std::int64_t value = 0;
        const auto base = static_cast<int>(std::clamp<std::int64_t>(p.integer(1, 10), 2, 36));
        const auto result =
            std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
        if (!digits.empty() && result.ec == std::errc() &&
            result.ptr == digits.data() + digits.size())
            return Value::integer(value);
        real = parse_real(*text);
    }
    if (!real || !std::isfinite(*real) || std::abs(*real) >= 0x1p63) return otherwise;
    return Value::integer(static_cast<std::int64_t>(*real));
}

Value float_filter(Evaluator&, const Value& input, const Arguments& arguments) {
    const Parameters p("float", arguments, {"default"});
    if (input.is_number()) return Value::real(input.as_real());
    const auto real = input.as_text() != nullptr ? parse_real(*input.as_text()) : std::nullopt;
    return real ? Value::real(*real) : p.has(0) ? p.at(0) : Value::real(0);
}

Value round_filter(Evaluator&, const Value& input, const Arguments& arguments) {
    const Parameters p("round", arguments, {"precision", "method"});
    const std::int64_t precision = std::clamp<std::int64_t>(p.integer(0, 0), 0, 15);
    const std::string method = p.text(1, "common");
    if (!input.is_number()) throw TemplateError("round takes a number");
    if (method == "common") {
        if (input.is_integral()) return Value::integer(input.as_integer());
        return Value::real(
            std::strtod(fmt::format("{:.{}f}", input.as_real(), precision).c_str(), nullptr));
    }
    const double scale = std::pow(10.0, static_cast<double>(precision));
    return Value::real((method == "ceil" ? std::ceil(input.as_real() * scale)
                                         : std::floor(input.as_real() * scale)) /
                       scale);
}

Value length_filter(Evaluator& evaluator, const Value& input, const Arguments&) {
    if (const std::string* text = input.as_text()) {
        evaluator.charge(text->size() / 32);
        return Value::integer(count_code_points(*text));
    }
    if (const Dict* dict = input.as_dict())
        return Value::integer(static_cast<std::int64_t>(dict->entries.size()));
    if (const Sequence* items = input.as_sequence();
        items != nullptr && items->form != Sequence::Form::kGenerator) {
        return Value::integer(static_cast<std::int64_t>(items->items.size()));
    }
    if (input.is_undefined()) return Value::integer(0);
    throw TemplateError(fmt::format("a value of type {} has no length", input.type_name()));
}

Value first_filter(Evaluator& evaluator, const Value& input, const Arguments&) {
    if (const auto* sequence = input.get<std::shared_ptr<Sequence>>();
        sequence != nullptr && (*sequence)->form == Sequence::Form::kGenerator &&
        (*sequence)->consumed < (*sequence)->items.size()) {
        return (*sequence)->items[(*sequence)->consumed++];
    }
    const auto items = evaluator.items_of(input);
    return items.empty() ? Value::undefined("no first item, sequence was empty") : items.front();
}

Value last_filter(Evaluator& evaluator, const Value& input, const Arguments&) {
    if (const Sequence* sequence = input.as_sequence();
        sequence != nullptr && sequence->form == Sequence::Form::kGenerator) {
        throw TemplateError("last takes a sequence, not a generator; use |list first");
    }
    const auto items = evaluator.items_of(input);
    return items.empty() ? Value::undefined("no last item, sequence was empty") : items.back();
}

Value reverse_filter(Evaluator& evaluator, const Value& input, const Arguments&) {
    auto items = evaluator.items_of(input);
    std::reverse(items.begin(), items.end());
    if (input.as_text() == nullptr) return Value::generator(std::move(items));
    std::string out;
    for (const Value& item : items) out += *item.as_text();
    return evaluator.text(std::move(out));
}

Value items_filter(Evaluator& evaluator, const Value& input, const Arguments&) {
    if (input.is_undefined()) return Value::generator({});
    const Dict* dict = input.as_dict();
    if (dict == nullptr) throw TemplateError("items takes a dict");
    evaluator.charge(dict->entries.size());
    std::vector<Value> pairs;
    for (const auto& [key, value] : dict->entries) pairs.push_back(Value::tuple({key, value}));
    return Value::generator(std::move(pairs));
}

Value default_filter(Evaluator&, const Value& input, const Arguments& arguments) {
    const Parameters p("default", arguments, {"default_value", "boolean"});
    const bool replaced = input.is_undefined() || (p.flag(1, false) && !input.truthy());
    return !replaced ? input : p.has(0) ? p.at(0) : Value::text("");
}

Value replace_filter(Evaluator& evaluator, const Value& input, const Arguments& arguments) {
    const Parameters p("replace", arguments, {"old", "new", "count"});
    const std::int64_t count = p.has(2) && !p.at(2).is_none() ? p.integer(2, -1) : -1;
    return evaluator.call_method(
        Callable{Callable::Kind::kMethod, "replace", Value::text(to_text(input)), nullptr, nullptr},
        {{Value::text(to_text(p.at(0))), Value::text(to_text(p.at(1))), Value::integer(count)},
         {}});
}

/// A filter on text without arguments.
Filter text_filter(std::string (*function)(std::string_view)) {
    return [function](Evaluator& evaluator, const Value& input, const Arguments&) {
        return evaluator.text(function(to_text(input)));
    };
}

Value abs_filter(Evaluator& evaluator, const Value& input, const Arguments&) {
    if (!input.is_number()) throw TemplateError("abs takes a number");
    return input.as_real() < 0 ? evaluator.binary("*", input, Value::integer(-1)) : input;
}

const std::unordered_map<std::string, Filter>& filters() {
    static const Filter kTrim = [](Evaluator& evaluator, const Value& input,
                                   const Arguments& arguments) {
        const Parameters p("trim", arguments, {"chars"});
        const std::string text = to_text(input);
        const std::string chars = p.has(0) && !p.at(0).is_none() ? to_text(p.at(0)) : std::string();
        const bool given_chars = p.has(0) && !p.at(0).is_none();
        return evaluator.text(std::string(
            strip(text, given_chars ? std::optional<std::string_view>(chars) : std::nullopt, true,
                  true)));
    };
    static const Filter kIdentityText = [](Evaluator& evaluator, const Value& input,
                                           const Arguments&) {
        return evaluator.text(to_text(input));
    };
    const auto select = [](bool by_attribute, bool wanted) -> Filter {
        return [=](Evaluator& e, const Value& input, const Arguments& a) {
            return select_filter(e, input, a, by_attribute, wanted);
        };
    };
    static const std::unordered_map<std::string, Filter> kFilters{
        {"trim", kTrim},
        {"length", length_filter},
        {"count", length_filter},
        {"join", join_filter},
        {"tojson", tojson_filter},
        {"items", items_filter},
        {"list", [](Evaluator& e, const Value& input,
                    const Arguments&) { return Value::list(e.items_of(input)); }},
        {"select", select(false, true)},
        {"reject", select(false, false)},
        {"selectattr", select(true, true)},
        {"rejectattr", select(true, false)},
        {"map", map_filter},
        {"first", first_filter},
        {"last", last_filter},
        {"default", default_filter},
        {"d", default_filter},
        {"replace", replace_filter},
        {"upper", text_filter(upper)},
        {"lower", text_filter(lower)},
        {"capitalize", text_filter(capitalize)},
        {"title", text_filter(title_filter)},
        {"string", kIdentityText},
        {"safe", kIdentityText},
        {"int", int_filter},
        {"float", float_filter},
        {"round", round_filter},
        {"abs", abs_filter},
        {"indent", indent_filter},
        {"unique", unique_filter},
        {"sort", sort_filter},
        {"dictsort", dictsort_filter},
        {"reverse", reverse_filter},
        {"sum", sum_filter},
        {"min", [](Evaluator& e, const Value& input,
                   const Arguments& a) { return extreme_filter(e, input, a, false); }},
        {"max", [](Evaluator& e, const Value& input,
                   const Arguments& a) { return extreme_filter(e, input, a, true); }},
    };
    return kFilters;
}

}  // namespace

Value Evaluator::apply_filter(const std::string& name, const Value& input,
                              const Arguments& arguments) {
    charge(1);
    const auto found = filters().find(name);
    if (found == filters().end())
        throw TemplateError(fmt::format("unknown or unsupported filter '{}'", name));
    return found->second(*this, input, arguments);
}

namespace {

bool is_case(const Value& input, std::string (*function)(std::string_view)) {
    const std::string text = to_text(input);
    return function(text) == text && (upper(text) != text || lower(text) != text);
}

bool divides(const Value& input, const Value& by) {
    if (!input.is_integral() || !by.is_integral() || by.as_integer() == 0)
        throw TemplateError("divisibleby, odd and even take integers");
    return by.as_integer() == -1 || input.as_integer() % by.as_integer() == 0;
}

bool same_object(const Value& a, const Value& b) {
    if (a.get<bool>() != nullptr || b.get<bool>() != nullptr) {
        return a.get<bool>() != nullptr && b.get<bool>() != nullptr && equal(a, b);
    }
    return equal(a, b) && std::string_view(a.type_name()) == b.type_name();
}

using Test = std::function<bool(Evaluator&, const Value&, const Arguments&)>;

Test comparison_test(const char* symbol) {
    return [symbol](Evaluator& evaluator, const Value& input, const Arguments& arguments) {
        return evaluator.compare(symbol, input, Parameters("a test", arguments, {"other"}).at(0));
    };
}

/// A test without arguments.
Test plain(bool (*holds)(const Value&)) {
    return [holds](Evaluator&, const Value& input, const Arguments&) { return holds(input); };
}

const std::unordered_map<std::string, Test>& tests() {
    static const Test kEqual = comparison_test("=="), kNotEqual = comparison_test("!="),
                      kLess = comparison_test("<"), kGreater = comparison_test(">"),
                      kLessEqual = comparison_test("<="), kGreaterEqual = comparison_test(">=");
    static const std::unordered_map<std::string, Test> kTests{
        {"defined", plain([](const Value& v) { return !v.is_undefined(); })},
        {"undefined", plain([](const Value& v) { return v.is_undefined(); })},
        {"none", plain([](const Value& v) { return v.is_none(); })},
        {"string", plain([](const Value& v) { return v.as_text() != nullptr; })},
        {"mapping", plain([](const Value& v) { return v.as_dict() != nullptr; })},
        {"iterable", plain([](const Value& v) {
             return v.is_undefined() || v.as_text() != nullptr || v.as_sequence() != nullptr ||
                    v.as_dict() != nullptr;
         })},
        {"sequence", plain([](const Value& v) {
             const Sequence* items = v.as_sequence();
             return v.is_undefined() || v.as_text() != nullptr || v.as_dict() != nullptr ||
                    (items != nullptr && items->form != Sequence::Form::kGenerator);
         })},
        {"number", plain([](const Value& v) { return v.is_number(); })},
        {"integer", plain([](const Value& v) { return v.get<std::int64_t>() != nullptr; })},
        {"float", plain([](const Value& v) { return v.get<double>() != nullptr; })},
        {"boolean", plain([](const Value& v) { return v.get<bool>() != nullptr; })},
        {"true", plain([](const Value& v) { return v.get<bool>() != nullptr && v.truthy(); })},
        {"false", plain([](const Value& v) { return v.get<bool>() != nullptr && !v.truthy(); })},
        {"callable",
         plain([](const Value& v) { return v.get<std::shared_ptr<const Callable>>() != nullptr; })},
        {"odd", plain([](const Value& v) { return !divides(v, Value::integer(2)); })},
        {"even", plain([](const Value& v) { return divides(v, Value::integer(2)); })},
        {"lower", plain([](const Value& v) { return is_case(v, lower); })},
        {"upper", plain([](const Value& v) { return is_case(v, upper); })},
        {"divisibleby",
         [](Evaluator&, const Value& v, const Arguments& a) {
             return divides(v, Parameters("divisibleby", a, {"num"}).at(0));
         }},
        {"in",
         [](Evaluator& e, const Value& v, const Arguments& a) {
             return e.contains(Parameters("in", a, {"seq"}).at(0), v);
         }},
        {"sameas",
         [](Evaluator&, const Value& v, const Arguments& a) {
             return same_object(v, Parameters("sameas", a, {"other"}).at(0));
         }},
        {"==", kEqual},
        {"eq", kEqual},
        {"equalto", kEqual},
        {"!=", kNotEqual},
        {"ne", kNotEqual},
        {"<", kLess},
        {"lt", kLess},
        {"lessthan", kLess},
        {">", kGreater},
        {"gt", kGreater},
        {"greaterthan", kGreater},
        {"<=", kLessEqual},
        {"le", kLessEqual},
        {">=", kGreaterEqual},
        {"ge", kGreaterEqual},
    };
    return kTests;
}

}  // namespace

bool Evaluator::apply_test(const std::string& name, const Value& input,
                           const Arguments& arguments) {
    charge(1);
    const auto found = tests().find(name);
    if (found == tests().end())
        throw TemplateError(fmt::format("unknown or unsupported test '{}'", name));
    return found->second(*this, input, arguments);
}

}  // namespace qshard::jinja
