#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <functional>
#include <unordered_map>

#include "io/chat/evaluator.h"
#include "io/chat/text.h"

/// Methods of str, list, dict and loop, and the global functions.
namespace qshard::jinja {
namespace {

const std::string& required_text(const Parameters& p, std::size_t index) {
    const std::string* text = p.at(index).as_text();
    if (text == nullptr) throw TemplateError("a text method takes text");
    return *text;
}

Value list_of(Evaluator& evaluator, std::vector<std::string> parts) {
    std::vector<Value> items;
    for (std::string& part : parts) items.push_back(evaluator.text(std::move(part)));
    return evaluator.list(std::move(items));
}

/// The bytes [begin, end) that Python's optional start and end arguments select.
std::string_view selected(const std::string& self, const Parameters& p, std::size_t first,
                          std::size_t* begin_bytes) {
    if (!p.has(first) && !p.has(first + 1)) {
        *begin_bytes = 0;
        return self;
    }
    const auto offsets = code_point_offsets(self);
    const auto count = static_cast<std::int64_t>(offsets.size()) - 1;
    const auto at = [&](std::int64_t index) {
        return offsets[static_cast<std::size_t>(
            std::clamp<std::int64_t>(index < 0 ? index + count : index, 0, count))];
    };
    const std::size_t begin = at(p.integer(first, 0)), end = at(p.integer(first + 1, count));
    *begin_bytes = begin;
    return begin < end ? std::string_view(self).substr(begin, end - begin) : std::string_view();
}

Value affix_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments,
                   bool at_start) {
    const Parameters p(at_start ? "startswith" : "endswith", arguments, {"prefix", "start", "end"});
    std::size_t begin = 0;
    const std::string_view text = selected(self, p, 1, &begin);
    std::vector<Value> affixes{p.at(0)};
    if (p.at(0).as_sequence() != nullptr) affixes = evaluator.items_of(p.at(0));
    return Value::boolean(std::any_of(affixes.begin(), affixes.end(), [&](const Value& affix) {
        const std::string* part = affix.as_text();
        if (part == nullptr) throw TemplateError("startswith and endswith take text");
        return at_start ? text.starts_with(*part) : text.ends_with(*part);
    }));
}

Value find_method(const std::string& self, const Arguments& arguments, bool last, bool must_exist) {
    const Parameters p("find", arguments, {"sub", "start", "end"});
    std::size_t begin = 0;
    const std::string_view text = selected(self, p, 1, &begin);
    const std::string& part = required_text(p, 0);
    const std::size_t at = last ? text.rfind(part) : find_text(text, part);
    if (at == std::string_view::npos && must_exist) throw TemplateError("substring not found");
    return Value::integer(at == std::string_view::npos
                              ? -1
                              : count_code_points(std::string_view(self).substr(0, begin + at)));
}

Value count_method(const std::string& self, const Arguments& arguments) {
    const Parameters p("count", arguments, {"sub"});
    const std::string& part = required_text(p, 0);
    if (part.empty()) return Value::integer(count_code_points(self) + 1);
    std::int64_t count = 0;
    for (std::size_t at = 0; (at = find_text(self, part, at)) != std::string_view::npos;
         at += part.size())
        ++count;
    return Value::integer(count);
}

Value split_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments,
                   bool from_right) {
    const Parameters p("split", arguments, {"sep", "maxsplit"});
    std::optional<std::string_view> separator;
    if (p.has(0) && !p.at(0).is_none()) separator = required_text(p, 0);
    if (separator && separator->empty()) throw TemplateError("split: empty separator");
    // Without a separator, splitting from the right rescans for each part.
    if (from_right && !separator) evaluator.charge(self.size() * (self.size() / 64 + 1) / 64);
    return list_of(evaluator, split(self, separator, p.integer(1, -1), from_right));
}

Value partition_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments,
                       bool last) {
    const std::string separator = required_text(Parameters("partition", arguments, {"sep"}), 0);
    if (separator.empty()) throw TemplateError("partition: empty separator");
    const std::size_t at = last ? self.rfind(separator) : find_text(self, separator);
    if (at == std::string::npos) {
        const Value whole = evaluator.text(self), empty = Value::text("");
        return last ? Value::tuple({empty, empty, whole}) : Value::tuple({whole, empty, empty});
    }
    return Value::tuple({evaluator.text(self.substr(0, at)), Value::text(separator),
                         evaluator.text(self.substr(at + separator.size()))});
}

Value strip_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments,
                   bool left, bool right) {
    const Parameters p("strip", arguments, {"chars"});
    std::optional<std::string_view> chars;
    if (p.has(0) && !p.at(0).is_none()) chars = required_text(p, 0);
    return evaluator.text(std::string(strip(self, chars, left, right)));
}

Value replace_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments) {
    const Parameters p("replace", arguments, {"old", "new", "count"});
    const std::string &old = required_text(p, 0), &replacement = required_text(p, 1);
    const std::size_t most = old.empty() ? self.size() + 1 : self.size() / old.size();
    if (most > 0 && replacement.size() > kMaxTextBytes / most) {
        // Only texts that could become too large are counted before they are made.
        const auto hits =
            static_cast<std::size_t>(count_method(self, {{p.at(0)}, {}}).as_integer());
        if (hits > 0 && replacement.size() > kMaxTextBytes / hits)
            throw TemplateError("replace: the text is too large");
    }
    return evaluator.text(replace(self, old, replacement, p.integer(2, -1)));
}

Value join_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments) {
    std::string joined;
    bool first = true;
    for (const Value& part :
         evaluator.items_of(Parameters("join", arguments, {"iterable"}).at(0))) {
        if (part.as_text() == nullptr)
            throw TemplateError(fmt::format("join: expected text, found {}", part.type_name()));
        if (!std::exchange(first, false)) joined += self;
        joined += *part.as_text();
        if (joined.size() > kMaxTextBytes) throw TemplateError("join: the text is too large");
    }
    return evaluator.text(std::move(joined));
}

/// str.format with {}, {0}, {name}, {0.attribute}; no conversions and no format specifications.
Value format_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments) {
    std::string out;
    std::size_t next = 0;
    for (std::size_t i = 0; i < self.size(); ++i) {
        const char c = self[i];
        if (c != '{' && c != '}') {
            out += c;
        } else if (i + 1 < self.size() && self[i + 1] == c) {
            out += c;
            ++i;
        } else {
            const std::size_t end = c == '{' ? self.find('}', i) : std::string::npos;
            if (end == std::string::npos)
                throw TemplateError("format: single '{' or '}' in the format");
            const auto path =
                split(std::string_view(self).substr(i + 1, end - i - 1), ".", -1, false);
            i = end;
            if (path[0].find_first_of("!:[{") != std::string::npos)
                throw TemplateError("format: only {}, {0} and {name} are supported");
            Value value;
            const bool position =
                path[0].find_first_not_of("0123456789") == std::string::npos && path[0].size() < 9;
            const std::size_t index = path[0].empty() ? next++ : position ? std::stoul(path[0]) : 0;
            const auto named = std::find_if(arguments.named.begin(), arguments.named.end(),
                                            [&](const auto& one) { return one.first == path[0]; });
            if (position && index < arguments.positional.size()) {
                value = arguments.positional[index];
            } else if (!position && named != arguments.named.end()) {
                value = named->second;
            } else {
                throw TemplateError(fmt::format("format: there is no argument '{}'", path[0]));
            }
            for (std::size_t part = 1; part < path.size(); ++part)
                value = evaluator.attribute(value, path[part]);
            out += to_text(value);
            if (out.size() > kMaxTextBytes) throw TemplateError("format: the text is too large");
        }
    }
    return evaluator.text(std::move(out));
}

/// isalpha and its kin: not empty, and every code point satisfies `holds`.
Value every(const std::string& self, const std::function<bool(char32_t)>& holds) {
    for (std::size_t i = 0; i < self.size();) {
        if (!holds(next_code_point(self, i))) return Value::boolean(false);
    }
    return Value::boolean(!self.empty());
}

bool is_decimal(char32_t c) {
    return c >= U'0' && c <= U'9';
}

Value affix_removed(Evaluator& evaluator, const std::string& self, const Arguments& arguments,
                    bool at_start) {
    const std::string affix = required_text(Parameters("removeprefix", arguments, {"affix"}), 0);
    if (at_start ? !self.starts_with(affix) : !self.ends_with(affix)) return evaluator.text(self);
    return evaluator.text(self.substr(at_start ? affix.size() : 0, self.size() - affix.size()));
}

Value zfill_method(Evaluator& evaluator, const std::string& self, const Arguments& arguments) {
    const std::int64_t missing =
        Parameters("zfill", arguments, {"width"}).integer(0, 0) - count_code_points(self);
    if (missing > 1'000'000) throw TemplateError("zfill: the width is too large");
    const std::size_t sign = !self.empty() && (self[0] == '-' || self[0] == '+') ? 1 : 0;
    const std::string zeros(static_cast<std::size_t>(std::max<std::int64_t>(missing, 0)), '0');
    return evaluator.text(self.substr(0, sign) + zeros + self.substr(sign));
}

using TextMethod = std::function<Value(Evaluator&, const std::string&, const Arguments&)>;

TextMethod mapped(std::string (*function)(std::string_view)) {
    return [function](Evaluator& e, const std::string& self, const Arguments&) {
        return e.text(function(self));
    };
}

const std::unordered_map<std::string, TextMethod>& text_methods() {
    using E = Evaluator;
    using S = const std::string;
    using A = const Arguments;
    static const std::unordered_map<std::string, TextMethod> kMethods{
        {"capitalize", mapped(capitalize)},
        {"title", mapped(title_method)},
        {"lower", mapped(lower)},
        {"upper", mapped(upper)},
        {"startswith", [](E& e, S& s, A& a) { return affix_method(e, s, a, true); }},
        {"endswith", [](E& e, S& s, A& a) { return affix_method(e, s, a, false); }},
        {"find", [](E&, S& s, A& a) { return find_method(s, a, false, false); }},
        {"rfind", [](E&, S& s, A& a) { return find_method(s, a, true, false); }},
        {"index", [](E&, S& s, A& a) { return find_method(s, a, false, true); }},
        {"count", [](E&, S& s, A& a) { return count_method(s, a); }},
        {"split", [](E& e, S& s, A& a) { return split_method(e, s, a, false); }},
        {"rsplit", [](E& e, S& s, A& a) { return split_method(e, s, a, true); }},
        {"splitlines",
         [](E& e, S& s, A& a) {
             return list_of(
                 e, split_lines(s, Parameters("splitlines", a, {"keepends"}).flag(0, false)));
         }},
        {"partition", [](E& e, S& s, A& a) { return partition_method(e, s, a, false); }},
        {"rpartition", [](E& e, S& s, A& a) { return partition_method(e, s, a, true); }},
        {"strip", [](E& e, S& s, A& a) { return strip_method(e, s, a, true, true); }},
        {"lstrip", [](E& e, S& s, A& a) { return strip_method(e, s, a, true, false); }},
        {"rstrip", [](E& e, S& s, A& a) { return strip_method(e, s, a, false, true); }},
        {"removeprefix", [](E& e, S& s, A& a) { return affix_removed(e, s, a, true); }},
        {"removesuffix", [](E& e, S& s, A& a) { return affix_removed(e, s, a, false); }},
        {"replace", replace_method},
        {"join", join_method},
        {"format", format_method},
        {"zfill", zfill_method},
        {"isalpha", [](E&, S& s, A&) { return every(s, is_letter); }},
        {"isdigit", [](E&, S& s, A&) { return every(s, is_decimal); }},
        {"isalnum",
         [](E&, S& s, A&) {
             return every(s, [](char32_t c) { return is_letter(c) || is_decimal(c); });
         }},
        {"isspace", [](E&, S& s, A&) { return every(s, is_space); }},
        {"islower", [](E&, S& s, A&) { return Value::boolean(lower(s) == s && upper(s) != s); }},
        {"isupper", [](E&, S& s, A&) { return Value::boolean(upper(s) == s && lower(s) != s); }},
    };
    return kMethods;
}

Value dict_method(Evaluator& evaluator, const std::string& name, const Value& self,
                  const Arguments& arguments) {
    const Dict& dict = *self.as_dict();
    if (name == "get") {
        const Parameters p("get", arguments, {"key", "default"});
        evaluator.charge(dict.entries.size() / 16);
        const Value* value = p.at(0).nesting() == 0 ? dict.find(p.at(0)) : nullptr;
        return value != nullptr ? *value : p.has(1) ? p.at(1) : Value::none();
    }
    if (name == "copy") return self;
    std::vector<Value> items;
    for (const auto& [key, value] : dict.entries) {
        items.push_back(name == "keys"     ? key
                        : name == "values" ? value
                                           : Value::tuple({key, value}));
    }
    return evaluator.list(std::move(items));
}

Value list_method(Evaluator& evaluator, const std::string& name, const Value& self,
                  const Arguments& arguments) {
    if (name == "copy") return self;
    const Value needle = Parameters(name, arguments, {"value"}).at(0);
    std::int64_t index = 0, count = 0;
    for (const Value& value : self.as_sequence()->items) {
        if (evaluator.compare("==", value, needle)) {
            if (name == "index") return Value::integer(index);
            ++count;
        }
        ++index;
        evaluator.charge(1);
    }
    if (name == "index") throw TemplateError("the value is not in the list");
    return Value::integer(count);
}

Value loop_method(Evaluator& evaluator, const std::string& name, Loop& loop,
                  const Arguments& arguments) {
    if (name == "cycle") {
        if (arguments.positional.empty()) throw TemplateError("loop.cycle needs arguments");
        return arguments.positional[loop.index % arguments.positional.size()];
    }
    const bool changed =
        loop.last_changed.size() != arguments.positional.size() ||
        !std::equal(loop.last_changed.begin(), loop.last_changed.end(),
                    arguments.positional.begin(),
                    [&](const Value& a, const Value& b) { return evaluator.compare("==", a, b); });
    loop.last_changed.clear();
    for (const Value& value : arguments.positional) {
        // The loop itself among its own values would never be freed.
        if (value.get<std::shared_ptr<Loop>>() != nullptr || value.nesting() > 0)
            throw TemplateError("loop.changed takes plain values");
        loop.last_changed.push_back(value);
    }
    return Value::boolean(changed);
}

Value range_function(Evaluator& evaluator, const Arguments& arguments) {
    const Parameters p("range", arguments, {"start", "stop", "step"});
    p.at(0);
    const std::int64_t start = p.has(1) ? p.integer(0, 0) : 0,
                       stop = p.has(1) ? p.integer(1, 0) : p.integer(0, 0);
    const std::int64_t step = p.integer(2, 1);
    if (step == 0) throw TemplateError("range: the step is zero");
    std::vector<Value> items;
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (items.size() >= 100'000) throw TemplateError("range: more than 100000 numbers");
        items.push_back(Value::integer(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return evaluator.list(std::move(items));
}

Value strftime_function(Evaluator& evaluator, const Arguments& arguments) {
    const Parameters p("strftime_now", arguments, {"format", "clock"});
    std::tm parts{};
    // A pinned clock is read as UTC, so that the text does not depend on the machine.
    const std::time_t now =
        p.has(1) ? static_cast<std::time_t>(p.integer(1, 0)) : std::time(nullptr);
    if (p.has(1)) {
        gmtime_r(&now, &parts);
    } else {
        localtime_r(&now, &parts);
    }
    const std::string& format = required_text(p, 0);
    if (format.size() > 1000) throw TemplateError("strftime_now: the format is too long");
    std::string out(16384, '\0');
    out.resize(std::strftime(out.data(), out.size(), format.c_str(), &parts));
    return evaluator.text(std::move(out));
}

}  // namespace

Value Evaluator::call_method(const Callable& method, const Arguments& arguments) {
    charge(1);
    if (const auto* loop = method.self.get<std::shared_ptr<Loop>>())
        return loop_method(*this, method.name, **loop, arguments);
    if (method.self.as_dict() != nullptr)
        return dict_method(*this, method.name, method.self, arguments);
    if (const std::string* self = method.self.as_text()) {
        charge(self->size() / 32);
        const auto found = text_methods().find(method.name);
        if (found == text_methods().end())
            throw TemplateError(fmt::format("unknown text method '{}'", method.name));
        return found->second(*this, *self, arguments);
    }
    return list_method(*this, method.name, method.self, arguments);
}

Value Evaluator::call_global(const Callable& function, const Arguments& arguments) {
    charge(1);
    if (function.name == "range") return range_function(*this, arguments);
    if (function.name == "strftime_now") return strftime_function(*this, arguments);
    if (function.name == "raise_exception") {
        throw TemplateError(
            fmt::format("it refuses this conversation: {}",
                        to_text(Parameters("raise_exception", arguments, {"message"}).at(0))));
    }
    std::vector<std::pair<Value, Value>> entries;
    for (const Value& source : arguments.positional) {
        if (source.as_dict() == nullptr)
            throw TemplateError("dict() takes a dict and keyword arguments");
        entries = source.as_dict()->entries;
    }
    for (const auto& [name, value] : arguments.named) {
        const Value key = Value::text(name);
        const auto old = std::find_if(entries.begin(), entries.end(),
                                      [&](const auto& entry) { return equal(entry.first, key); });
        if (old != entries.end()) {
            old->second = value;
        } else {
            entries.emplace_back(key, value);
        }
    }
    return Value::dict(std::move(entries));
}

}  // namespace qshard::jinja
