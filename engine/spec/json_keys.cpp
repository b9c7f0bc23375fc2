#include "spec/json_keys.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cmath>

#include "base/error.h"

namespace qshard {

JsonKeys::JsonKeys(const boost::json::object& object, std::string origin)
    : object_(object), origin_(std::move(origin)) {}

void JsonKeys::fail(std::string_view key, std::string_view expected) const {
    const boost::json::value* value = object_.if_contains(key);
    std::string found = value == nullptr ? "nothing" : boost::json::serialize(*value);
    if (found.size() > 80) found = found.substr(0, 77) + "...";
    throw UserError(fmt::format("{}: \"{}\" must be {}, found {}", origin_, key, expected, found));
}

const boost::json::value* JsonKeys::find(std::string_view key) {
    known_.emplace(key);
    const boost::json::value* value = object_.if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
}

std::optional<std::int64_t> JsonKeys::integer(std::string_view key, std::int64_t low,
                                              std::int64_t high) {
    const boost::json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    // Whole floats occur in real files ("hidden_size": 4096.0).
    std::optional<std::int64_t> found;
    if (value->is_int64()) found = value->get_int64();
    if (value->is_double() && std::abs(value->get_double()) < 0x1p53 &&
        value->get_double() == std::floor(value->get_double())) {
        found = static_cast<std::int64_t>(value->get_double());
    }
    if (!found || *found < low || *found > high) {
        fail(key, fmt::format("an integer from {} to {}", low, high));
    }
    return found;
}

std::optional<double> JsonKeys::number(std::string_view key) {
    const boost::json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_double() && std::isfinite(value->get_double())) return value->get_double();
    if (value->is_int64()) return static_cast<double>(value->get_int64());
    if (value->is_uint64()) return static_cast<double>(value->get_uint64());
    fail(key, "a finite number");
}

std::optional<bool> JsonKeys::boolean(std::string_view key) {
    const boost::json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_bool()) fail(key, "true or false");
    return value->get_bool();
}

std::optional<std::string> JsonKeys::text(std::string_view key) {
    const boost::json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) fail(key, "a string");
    return std::string(value->get_string());
}

const boost::json::object* JsonKeys::object(std::string_view key) {
    const boost::json::value* value = find(key);
    if (value == nullptr) return nullptr;
    if (!value->is_object()) fail(key, "an object");
    return &value->get_object();
}

const boost::json::array* JsonKeys::array(std::string_view key) {
    const boost::json::value* value = find(key);
    if (value == nullptr) return nullptr;
    if (!value->is_array()) fail(key, "a list");
    return &value->get_array();
}

void JsonKeys::ignore(std::span<const std::string_view> keys) {
    for (std::string_view key : keys) known_.emplace(key);
}

void JsonKeys::refuse_others(std::string_view because) const {
    std::string others;
    for (const auto& [key, value] : object_) {
        if (value.is_null() || known_.contains(std::string_view(key))) continue;
        others += fmt::format("{}\"{}\"", others.empty() ? "" : ", ", std::string_view(key));
    }
    if (!others.empty())
        throw UserError(fmt::format("{}: unknown {}: {}", origin_, others, because));
}

}  // namespace qshard
