#include "spec/json.h"

#include <array>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/value_stack.hpp>
#include <cmath>
#include <unordered_set>
#include <vector>

#include "base/error.h"

namespace qshard {
namespace {

namespace json = boost::json;

/// Builds the value as Boost.JSON's own parser does, and refuses duplicate keys (which that one
/// lets win silently).
class StrictHandler {
  public:
    static constexpr std::size_t max_object_size = json::object::max_size();
    static constexpr std::size_t max_array_size = json::array::max_size();
    static constexpr std::size_t max_key_size = json::string::max_size();
    static constexpr std::size_t max_string_size = json::string::max_size();
    using error_code = boost::system::error_code;
    using string_view = json::string_view;

    json::value_stack stack;
    std::string duplicate;
    bool has_duplicate = false;

    StrictHandler() { stack.reset(); }
    bool on_document_begin(error_code&) { return true; }
    bool on_document_end(error_code&) { return true; }
    bool on_object_begin(error_code&) {
        keys_.emplace_back();
        return true;
    }
    bool on_object_end(std::size_t count, error_code&) {
        keys_.pop_back();
        stack.push_object(count);
        return true;
    }
    bool on_array_begin(error_code&) { return true; }
    bool on_array_end(std::size_t count, error_code&) {
        stack.push_array(count);
        return true;
    }
    bool on_key_part(string_view part, std::size_t, error_code&) {
        key_.append(part.data(), part.size());
        stack.push_chars(part);
        return true;
    }
    bool on_key(string_view part, std::size_t, error_code& error) {
        key_.append(part.data(), part.size());
        if (!keys_.back().insert(key_).second) {
            duplicate = key_;
            has_duplicate = true;
            error = json::error::syntax;
            return false;
        }
        key_.clear();
        stack.push_key(part);
        return true;
    }
    bool on_string_part(string_view part, std::size_t, error_code&) {
        stack.push_chars(part);
        return true;
    }
    bool on_string(string_view part, std::size_t, error_code&) {
        stack.push_string(part);
        return true;
    }
    bool on_number_part(string_view, error_code&) { return true; }
    bool on_int64(std::int64_t value, string_view, error_code&) {
        stack.push_int64(value);
        return true;
    }
    bool on_uint64(std::uint64_t value, string_view, error_code&) {
        stack.push_uint64(value);
        return true;
    }
    bool on_double(double value, string_view, error_code& error) {
        if (!std::isfinite(value)) error = json::error::exponent_overflow;
        stack.push_double(value);
        return !error;
    }
    bool on_bool(bool value, error_code&) {
        stack.push_bool(value);
        return true;
    }
    bool on_null(error_code&) {
        stack.push_null();
        return true;
    }
    bool on_comment_part(string_view, error_code&) { return true; }
    bool on_comment(string_view, error_code&) { return true; }

  private:
    std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
    std::string key_;
};

/// `text` with every NaN, Infinity and -Infinity outside strings in quotes.
std::string quote_non_finite(std::string_view text) {
    constexpr std::array<std::string_view, 3> kLiterals = {"-Infinity", "Infinity", "NaN"};
    std::string quoted;
    quoted.reserve(text.size() + 64);
    bool in_string = false;
    for (std::size_t i = 0; i < text.size();) {
        std::size_t length = 1;
        bool literal = false;
        if (in_string) {
            if (text[i] == '\\') length = std::min<std::size_t>(2, text.size() - i);
            if (text[i] == '"') in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else {
            for (std::string_view candidate : kLiterals) {
                if (!literal && text.substr(i, candidate.size()) == candidate) {
                    literal = true;
                    length = candidate.size();
                }
            }
        }
        if (literal) quoted += '"';
        quoted.append(text.substr(i, length));
        if (literal) quoted += '"';
        i += length;
    }
    return quoted;
}

}  // namespace

json::value parse_strict_json(std::string_view text, const std::string& origin,
                              const JsonLimits& limits) {
    if (text.size() > limits.bytes) {
        throw UserError(fmt::format("{}: {} bytes of JSON, more than the {} allowed", origin,
                                    text.size(), limits.bytes));
    }
    std::string quoted;
    if (limits.non_finite) {
        quoted = quote_non_finite(text);
        text = quoted;
    }
    json::parse_options options;
    options.max_depth = limits.depth;
    json::basic_parser<StrictHandler> parser(options);
    boost::system::error_code error;
    const std::size_t parsed = parser.write_some(false, text.data(), text.size(), error);
    if (parser.handler().has_duplicate) {
        throw UserError(fmt::format("{}: the key \"{}\" appears twice in one object", origin,
                                    parser.handler().duplicate));
    }
    if (error) {
        throw UserError(
            fmt::format("{}: not valid JSON: {} near byte {}", origin, error.message(), parsed));
    }
    if (text.find_first_not_of(" \t\r\n", parsed) != std::string_view::npos) {
        throw UserError(
            fmt::format("{}: not valid JSON: text after the document, at byte {}", origin, parsed));
    }
    return parser.handler().stack.release();
}

}  // namespace qshard
