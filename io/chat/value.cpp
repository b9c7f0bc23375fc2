#include "io/chat/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/chat/evaluator.h"
#include "io/chat/text.h"

namespace qshard::jinja {
namespace {

void check_nesting(int nesting) {
    if (nesting > kMaxNesting) {
        throw TemplateError(fmt::format("values are nested deeper than {}", kMaxNesting));
    }
}

void check_bytes(const std::string& text) {
    if (text.size() > kMaxTextBytes) {
        throw TemplateError(fmt::format("a text is larger than {} MiB", kMaxTextBytes >> 20));
    }
}

Value sequence(Sequence::Form form, std::vector<Value> items) {
    auto data = std::make_shared<Sequence>();
    for (const Value& item : items) data->nesting = std::max(data->nesting, item.nesting() + 1);
    check_nesting(data->nesting);
    data->form = form;
    data->items = std::move(items);
    return Value(Value::Data(std::move(data)));
}

}  // namespace

Value Value::text(std::string value) {
    check_bytes(value);
    return Value(Data(std::make_shared<const std::string>(std::move(value))));
}

Value Value::undefined(std::string why) {
    return Value(Data(Undefined{std::make_shared<const std::string>(std::move(why))}));
}

Value Value::list(std::vector<Value> items) {
    return sequence(Sequence::Form::kList, std::move(items));
}
Value Value::tuple(std::vector<Value> items) {
    return sequence(Sequence::Form::kTuple, std::move(items));
}
Value Value::generator(std::vector<Value> items) {
    return sequence(Sequence::Form::kGenerator, std::move(items));
}

Value Value::dict(std::vector<std::pair<Value, Value>> entries) {
    auto data = std::make_shared<Dict>();
    for (const auto& [key, value] : entries)
        data->nesting = std::max(data->nesting, value.nesting() + 1);
    check_nesting(data->nesting);
    data->entries = std::move(entries);
    return Value(Data(std::shared_ptr<const Dict>(std::move(data))));
}

Value Value::from_json(const boost::json::value& json, int depth) {
    check_nesting(depth);
    switch (json.kind()) {
        case boost::json::kind::null:
            return none();
        case boost::json::kind::bool_:
            return boolean(json.get_bool());
        case boost::json::kind::int64:
            return integer(json.get_int64());
        case boost::json::kind::uint64:
            throw TemplateError(
                fmt::format("the number {} does not fit 64 signed bits", json.get_uint64()));
        case boost::json::kind::double_:
            return real(json.get_double());
        case boost::json::kind::string:
            return text(std::string(json.get_string()));
        case boost::json::kind::array: {
            std::vector<Value> items;
            for (const auto& item : json.get_array()) items.push_back(from_json(item, depth + 1));
            return list(std::move(items));
        }
        case boost::json::kind::object:
            break;
    }
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& entry : json.get_object()) {
        entries.emplace_back(text(std::string(entry.key())), from_json(entry.value(), depth + 1));
    }
    return dict(std::move(entries));
}

const std::string* Value::as_text() const {
    const auto* data = get<std::shared_ptr<const std::string>>();
    return data != nullptr ? data->get() : nullptr;
}

const Sequence* Value::as_sequence() const {
    const auto* data = get<std::shared_ptr<Sequence>>();
    return data != nullptr ? data->get() : nullptr;
}

const Dict* Value::as_dict() const {
    const auto* data = get<std::shared_ptr<const Dict>>();
    return data != nullptr ? data->get() : nullptr;
}

bool Value::is_number() const {
    return is_integral() || get<double>() != nullptr;
}

std::int64_t Value::as_integer() const {
    if (const bool* flag = get<bool>()) return *flag ? 1 : 0;
    return std::get<std::int64_t>(data_);
}

double Value::as_real() const {
    if (const double* real_value = get<double>()) return *real_value;
    return static_cast<double>(as_integer());
}

bool Value::truthy() const {
    if (is_undefined() || is_none()) return false;
    if (is_number()) return as_real() != 0;
    if (const auto* string = as_text()) return !string->empty();
    if (const auto* items = as_sequence()) {
        return items->form == Sequence::Form::kGenerator || !items->items.empty();
    }
    if (const auto* entries = as_dict()) return !entries->entries.empty();
    return true;
}

int Value::nesting() const {
    if (const auto* items = as_sequence()) return items->nesting;
    if (const auto* entries = as_dict()) return entries->nesting;
    if (const auto* loop = get<std::shared_ptr<Loop>>()) return (*loop)->nesting;
    if (const auto* callable = get<std::shared_ptr<const Callable>>())
        return (*callable)->self.nesting() + 1;
    return 0;
}

const char* Value::type_name() const {
    static constexpr const char* kNames[] = {"undefined", "NoneType",    "bool",    "int",
                                             "float",     "str",         "list",    "dict",
                                             "Namespace", "LoopContext", "function"};
    if (const auto* items = as_sequence();
        items != nullptr && items->form != Sequence::Form::kList) {
        return items->form == Sequence::Form::kTuple ? "tuple" : "generator";
    }
    return kNames[data_.index()];
}

const Value* Dict::find(const Value& key) const {
    for (const auto& [name, value] : entries) {
        if (equal(name, key)) return &value;
    }
    return nullptr;
}

const Value* Dict::find(std::string_view key) const {
    for (const auto& [name, value] : entries) {
        const auto* text = name.as_text();
        if (text != nullptr && *text == key) return &value;
    }
    return nullptr;
}

Value* Namespace::find(std::string_view name) {
    for (auto& [key, value] : attributes) {
        if (key == name) return &value;
    }
    return nullptr;
}

bool equal(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) {
        if (a.is_integral() && b.is_integral()) return a.as_integer() == b.as_integer();
        return a.as_real() == b.as_real();
    }
    if (a.is_undefined() || a.is_none()) {
        return a.is_undefined() ? b.is_undefined() : b.is_none();
    }
    if (const auto* text = a.as_text()) return b.as_text() != nullptr && *text == *b.as_text();
    if (const auto* left = a.as_sequence()) {
        const auto* right = b.as_sequence();
        if (right == nullptr || left->form != right->form) return false;
        if (left->form == Sequence::Form::kGenerator) return left == right;
        return std::equal(left->items.begin(), left->items.end(), right->items.begin(),
                          right->items.end(), equal);
    }
    if (const auto* left = a.as_dict()) {
        const auto* right = b.as_dict();
        return right != nullptr && left->entries.size() == right->entries.size() &&
               std::all_of(left->entries.begin(), left->entries.end(), [&](const auto& entry) {
                   const Value* other = right->find(entry.first);
                   return other != nullptr && equal(entry.second, *other);
               });
    }
    const auto* left = a.get<Namespace*>();
    const auto* right = b.get<Namespace*>();
    return left != nullptr && right != nullptr && *left == *right;
}

bool less(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) {
        if (a.is_integral() && b.is_integral()) return a.as_integer() < b.as_integer();
        return a.as_real() < b.as_real();
    }
    if (a.as_text() != nullptr && b.as_text() != nullptr) return *a.as_text() < *b.as_text();
    const auto* left = a.as_sequence();
    const auto* right = b.as_sequence();
    if (left != nullptr && right != nullptr && left->form == right->form &&
        left->form != Sequence::Form::kGenerator) {
        const std::size_t common = std::min(left->items.size(), right->items.size());
        for (std::size_t i = 0; i < common; ++i) {
            if (!equal(left->items[i], right->items[i]))
                return less(left->items[i], right->items[i]);
        }
        return left->items.size() < right->items.size();
    }
    throw TemplateError(
        fmt::format("'<' is not supported between {} and {}", a.type_name(), b.type_name()));
}

std::string format_real(double value) {
    if (std::isnan(value)) return "nan";
    std::string text = fmt::format("{}", value);
    if (text.find_first_of(".en") == std::string::npos) text += ".0";
    return text;
}

std::string to_text(const Value& value) {
    if (value.is_undefined()) return "";
    if (const auto* text = value.as_text()) return *text;
    std::string out;
    append_repr(out, value);
    return out;
}

void append_repr(std::string& out, const Value& value) {
    check_bytes(out);
    if (value.is_undefined()) {
        out += "Undefined";
    } else if (value.is_none()) {
        out += "None";
    } else if (const bool* flag = value.get<bool>()) {
        out += *flag ? "True" : "False";
    } else if (const auto* integer = value.get<std::int64_t>()) {
        out += std::to_string(*integer);
    } else if (const double* real = value.get<double>()) {
        out += format_real(*real);
    } else if (const auto* text = value.as_text()) {
        out += repr(*text);
    } else if (const auto* items = value.as_sequence()) {
        if (items->form == Sequence::Form::kGenerator) {
            out += "<generator>";
            return;
        }
        const bool tuple = items->form == Sequence::Form::kTuple;
        out += tuple ? '(' : '[';
        for (std::size_t i = 0; i < items->items.size(); ++i) {
            if (i > 0) out += ", ";
            append_repr(out, items->items[i]);
        }
        if (tuple && items->items.size() == 1) out += ',';
        out += tuple ? ')' : ']';
    } else if (const auto* dict = value.as_dict()) {
        out += '{';
        for (std::size_t i = 0; i < dict->entries.size(); ++i) {
            if (i > 0) out += ", ";
            append_repr(out, dict->entries[i].first);
            out += ": ";
            append_repr(out, dict->entries[i].second);
        }
        out += '}';
    } else {
        out += fmt::format("<{}>", value.type_name());
    }
}

namespace {

class JsonWriter {
  public:
    JsonWriter(std::string& out, const JsonStyle& style) : out_(out), style_(style) {}

    void write(const Value& value, int level) {
        check_bytes(out_);
        if (value.is_none()) {
            out_ += "null";
        } else if (const bool* flag = value.get<bool>()) {
            out_ += *flag ? "true" : "false";
        } else if (value.is_number()) {
            out_ += number(value);
        } else if (const auto* text = value.as_text()) {
            quote(*text);
        } else if (const auto* items = value.as_sequence();
                   items != nullptr && items->form != Sequence::Form::kGenerator) {
            container('[', ']', items->items.size(), level,
                      [&](std::size_t i) { write(items->items[i], level + 1); });
        } else if (const auto* dict = value.as_dict()) {
            write_dict(*dict, level);
        } else {
            throw TemplateError(fmt::format("tojson: an object of type {} is not JSON serializable",
                                            value.type_name()));
        }
    }

  private:
    template <class Write>
    void container(char open, char close, std::size_t count, int level, Write write_item) {
        out_ += open;
        for (std::size_t i = 0; i < count; ++i) {
            if (i > 0) out_ += style_.item_separator;
            line_break(level + 1);
            write_item(i);
        }
        if (count > 0) line_break(level);
        out_ += close;
    }

    void line_break(int level) {
        if (!style_.multiline) return;
        out_ += '\n';
        for (int i = 0; i < level; ++i) out_ += style_.indent;
    }

    void write_dict(const Dict& dict, int level) {
        std::vector<const std::pair<Value, Value>*> entries;
        for (const auto& entry : dict.entries) entries.push_back(&entry);
        if (style_.sort_keys) {
            std::stable_sort(entries.begin(), entries.end(),
                             [](const auto* a, const auto* b) { return less(a->first, b->first); });
        }
        container('{', '}', entries.size(), level, [&](std::size_t i) {
            const auto& [key, value] = *entries[i];
            if (const auto* text = key.as_text()) {
                quote(*text);
            } else if (key.is_none() || key.is_number()) {
                const bool* flag = key.get<bool>();
                quote(key.is_none()     ? "null"
                      : flag != nullptr ? (*flag ? "true" : "false")
                                        : number(key));
            } else {
                throw TemplateError(fmt::format("tojson: a key is of type {}", key.type_name()));
            }
            out_ += style_.key_separator;
            write(value, level + 1);
        });
    }

    static std::string number(const Value& value) {
        if (value.is_integral()) return std::to_string(value.as_integer());
        const double real = value.as_real();
        if (std::isnan(real)) return "NaN";
        if (std::isinf(real)) return real > 0 ? "Infinity" : "-Infinity";
        return format_real(real);
    }

    void quote(std::string_view text) {
        out_ += '"';
        for (std::size_t i = 0; i < text.size();) {
            const std::size_t begin = i;
            const char32_t c = next_code_point(text, i);
            const auto code = static_cast<std::uint32_t>(c);
            switch (code) {
                case '"':
                    out_ += "\\\"";
                    break;
                case '\\':
                    out_ += "\\\\";
                    break;
                case '\n':
                    out_ += "\\n";
                    break;
                case '\r':
                    out_ += "\\r";
                    break;
                case '\t':
                    out_ += "\\t";
                    break;
                case '\f':
                    out_ += "\\f";
                    break;
                case '\b':
                    out_ += "\\b";
                    break;
                default:
                    if (code < 0x20 || (style_.ensure_ascii && code > 0x7E && code < 0x10000)) {
                        out_ += code == 0x7F ? std::string("\x7F") : fmt::format("\\u{:04x}", code);
                    } else if (style_.ensure_ascii && code >= 0x10000) {
                        const std::uint32_t rest = code - 0x10000;
                        out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10),
                                            0xDC00 + (rest & 0x3FF));
                    } else {
                        out_ += text.substr(begin, i - begin);
                    }
            }
        }
        out_ += '"';
    }

    std::string& out_;
    const JsonStyle& style_;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style) {
    std::string out;
    JsonWriter(out, style).write(value, 0);
    return out;
}

}  // namespace qshard::jinja
