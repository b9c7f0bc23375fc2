#include "io/checkpoint/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

namespace qshard {
namespace {

namespace json = boost::json;

/// One code point of UTF-8 that Boost.JSON has validated; advances `at`.
std::uint32_t next_code_point(std::string_view text, std::size_t& at) {
    const auto lead = static_cast<unsigned char>(text[at++]);
    if (lead < 0x80) return lead;
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    std::uint32_t code = lead & (0x3fu >> more);
    for (int i = 0; i < more && at < text.size(); ++i) {
        code = (code << 6) | (static_cast<unsigned char>(text[at++]) & 0x3fu);
    }
    return code;
}

std::string number_text(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    std::string text = fmt::format("{}", value);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    return text;
}

void append(std::string& out, const json::value& value, std::size_t depth) {
    const std::string inner(2 * (depth + 1), ' ');
    const std::string outer(2 * depth, ' ');
    if (const json::object* object = value.if_object()) {
        if (object->empty()) return void(out += "{}");
        std::vector<std::string_view> keys;
        for (const auto& item : *object) keys.emplace_back(item.key().data(), item.key().size());
        std::sort(keys.begin(), keys.end());
        const char* separator = "{\n";
        for (std::string_view key : keys) {
            out += separator + inner + json_quoted(key) + ": ";
            append(out, object->at(json::string_view(key.data(), key.size())), depth + 1);
            separator = ",\n";
        }
        out += "\n" + outer + "}";
    } else if (const json::array* array = value.if_array()) {
        if (array->empty()) return void(out += "[]");
        const char* separator = "[\n";
        for (const json::value& item : *array) {
            out += separator + inner;
            append(out, item, depth + 1);
            separator = ",\n";
        }
        out += "\n" + outer + "]";
    } else if (const json::string* text = value.if_string()) {
        out += json_quoted({text->data(), text->size()});
    } else if (const double* number = value.if_double()) {
        out += number_text(*number);
    } else {
        out += json::serialize(value);  // integers, booleans, null
    }
}

}  // namespace

std::string json_quoted(std::string_view text) {
    std::string out = "\"";
    for (std::size_t at = 0; at < text.size();) {
        const std::uint32_t code = next_code_point(text, at);
        switch (code) {
            case '"':
                out += "\\\"";
                break;
            case '\\':
                out += "\\\\";
                break;
            case '\n':
                out += "\\n";
                break;
            case '\r':
                out += "\\r";
                break;
            case '\t':
                out += "\\t";
                break;
            case '\b':
                out += "\\b";
                break;
            case '\f':
                out += "\\f";
                break;
            default:
                if (code >= 0x20 && code < 0x7f) {
                    out += static_cast<char>(code);
                } else if (code < 0x10000) {
                    out += fmt::format("\\u{:04x}", code);
                } else {
                    out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((code - 0x10000) >> 10),
                                       0xdc00 + ((code - 0x10000) & 0x3ff));
                }
        }
    }
    return out + "\"";
}

std::string python_json(const json::value& value) {
    std::string out;
    append(out, value, 0);
    return out;
}

}  // namespace qshard
