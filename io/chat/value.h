#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// The values of a template: Python's None, bool, int (64 bits), float, str, list, tuple, dict,
/// generators, and Jinja's undefined, namespace, loop and callables.
///
/// Text and containers are shared (shared_ptr), because Python's names refer to one immutable
/// object and templates pass whole conversations around. Only namespaces change after construction;
/// they live as long as the rendering and are referred to by plain pointers, so that no cycle can
/// form.
namespace qshard::jinja {

/// What a template did wrong; template.cpp adds the place and turns it into a UserError.
class TemplateError : public std::runtime_error {
  public:
    explicit TemplateError(const std::string& message) : std::runtime_error(message) {}
};

/// Containers nested deeper than this are refused: printing, comparing and freeing them recurse.
constexpr int kMaxNesting = 100;

struct Sequence;
struct Dict;
struct Namespace;
struct Loop;
struct Callable;

struct Undefined {
    std::shared_ptr<const std::string>
        why;  ///< what an error says if the value is used; null: no name known
};
struct None {};

class Value {
  public:
    using Data = std::variant<Undefined, None, bool, std::int64_t, double,
                              std::shared_ptr<const std::string>, std::shared_ptr<Sequence>,
                              std::shared_ptr<const Dict>, Namespace*, std::shared_ptr<Loop>,
                              std::shared_ptr<const Callable>>;
    Value() = default;
    explicit Value(Data data) : data_(std::move(data)) {}
    static Value none() { return Value(Data(None{})); }
    static Value boolean(bool value) { return Value(Data(value)); }
    static Value integer(std::int64_t value) { return Value(Data(value)); }
    static Value real(double value) { return Value(Data(value)); }
    static Value text(std::string value);
    static Value undefined(std::string why);
    static Value list(std::vector<Value> items);
    static Value tuple(std::vector<Value> items);
    static Value generator(std::vector<Value> items);
    static Value dict(std::vector<std::pair<Value, Value>> entries);
    /// Throws TemplateError for an integer beyond 64 signed bits.
    static Value from_json(const boost::json::value& json, int depth = 0);

    template <class T>
    const T* get() const {
        return std::get_if<T>(&data_);
    }
    bool is_undefined() const { return get<Undefined>() != nullptr; }
    bool is_none() const { return get<None>() != nullptr; }
    const std::string* as_text() const;
    const Sequence* as_sequence() const;
    const Dict* as_dict() const;
    /// Bool counts as a number, as in Python.
    bool is_number() const;
    bool is_integral() const { return get<bool>() != nullptr || get<std::int64_t>() != nullptr; }
    std::int64_t as_integer() const;  ///< of a bool or an integer
    double as_real() const;           ///< of a number

    bool truthy() const;
    int nesting() const;
    /// Python's name of the type, for messages.
    const char* type_name() const;

  private:
    Data data_;
};

struct Sequence {
    enum class Form { kList, kTuple, kGenerator };
    Form form = Form::kList;
    std::vector<Value> items;
    int nesting = 1;
    std::size_t consumed = 0;  ///< of a generator: items already taken
};

/// In order of insertion, keys unique.
struct Dict {
    std::vector<std::pair<Value, Value>> entries;
    int nesting = 1;
    const Value* find(const Value& key) const;
    const Value* find(std::string_view key) const;
};

struct Namespace {
    std::vector<std::pair<std::string, Value>> attributes;
    Value* find(std::string_view name);
};

/// The `loop` variable.
struct Loop {
    std::vector<Value> items;
    std::size_t index = 0;
    int nesting = 1;
    std::vector<Value> last_changed;
};

/// Python's ==. Never throws.
bool equal(const Value& a, const Value& b);
/// Python's <; TemplateError where Python raises TypeError.
bool less(const Value& a, const Value& b);
/// str(value), as {{ }} prints it; repr(value), as it appears inside a printed container.
std::string to_text(const Value& value);
void append_repr(std::string& out, const Value& value);
std::string format_real(double value);

struct JsonStyle {
    bool ensure_ascii = false;
    bool sort_keys = false;
    bool multiline = false;
    std::string indent;
    std::string item_separator = ", ";
    std::string key_separator = ": ";
};
/// json.dumps.
std::string to_json(const Value& value, const JsonStyle& style);

/// Largest text that a template may make or print.
constexpr std::size_t kMaxTextBytes = 32u << 20;

}  // namespace qshard::jinja
