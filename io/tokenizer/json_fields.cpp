#include "io/tokenizer/json_fields.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace qshard::tok {
namespace json = boost::json;
namespace {

constexpr std::size_t kMaxDepth = 32;

std::size_t count_members(const json::value& value) {
    std::size_t count = 0;
    if (value.is_object()) {
        count = value.get_object().size();
        for (const auto& member : value.get_object()) count += count_members(member.value());
    } else if (value.is_array()) {
        for (const json::value& item : value.get_array()) count += count_members(item);
    }
    return count;
}

// In a valid document every colon outside a string belongs to a key.
std::size_t count_keys(std::string_view text) {
    std::size_t count = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (in_string && text[i] == '\\') {
            ++i;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && text[i] == ':') {
            ++count;
        }
    }
    return count;
}

}  // namespace

json::value parse_json(std::string_view text, const std::string& origin, std::size_t max_bytes) {
    if (text.size() > max_bytes) {
        throw UserError(fmt::format("reading {}: {} bytes of JSON; at most {} are accepted", origin,
                                    text.size(), max_bytes));
    }
    json::parse_options options;
    options.max_depth = kMaxDepth;
    boost::system::error_code error;
    // Documents are built once and dropped: a bump allocator halves the time.
    json::value value = json::parse(
        json::string_view(text.data(), text.size()), error,
        json::make_shared_resource<json::monotonic_resource>(text.size() + 1024), options);
    if (error)
        throw UserError(fmt::format("reading {}: not valid JSON: {}", origin, error.message()));
    if (count_keys(text) != count_members(value)) {
        throw UserError(fmt::format("reading {}: a key occurs twice in one JSON object", origin));
    }
    return value;
}

void JsonField::fail(const std::string& message) const {
    throw UserError(fmt::format("{}: {}", path_, message));
}

const json::object& JsonField::object() const {
    if (!value_->is_object()) fail("expected an object");
    return value_->get_object();
}

const json::array& JsonField::array() const {
    if (!value_->is_array()) fail("expected an array");
    return value_->get_array();
}

std::string JsonField::string() const {
    if (!value_->is_string()) fail("expected a string");
    return {value_->get_string().data(), value_->get_string().size()};
}

std::int64_t JsonField::integer() const {
    if (!value_->is_int64()) fail("expected an integer");
    return value_->get_int64();
}

double JsonField::number() const {
    if (!value_->is_number()) fail("expected a number");
    return value_->to_number<double>();
}

bool JsonField::boolean() const {
    if (!value_->is_bool()) fail("expected true or false");
    return value_->get_bool();
}

JsonField JsonField::operator[](std::string_view key) const {
    static const json::value null;
    const json::value* member = object().if_contains(json::string_view(key.data(), key.size()));
    return {member != nullptr ? *member : null, fmt::format("{}.{}", path_, key)};
}

JsonField JsonField::operator[](std::size_t index) const {
    if (index >= array().size()) fail(fmt::format("expected at least {} items", index + 1));
    return {array()[index], fmt::format("{}[{}]", path_, index)};
}

bool JsonField::boolean_or(std::string_view key, bool otherwise) const {
    const JsonField field = (*this)[key];
    return field.is_null() ? otherwise : field.boolean();
}

std::string JsonField::string_or(std::string_view key, const std::string& otherwise) const {
    const JsonField field = (*this)[key];
    return field.is_null() ? otherwise : field.string();
}

void append_canonical(std::string& out, const json::value& value) {
    if (value.is_object()) {
        std::vector<const json::key_value_pair*> members;
        for (const auto& member : value.get_object()) members.push_back(&member);
        std::sort(members.begin(), members.end(),
                  [](auto a, auto b) { return a->key() < b->key(); });
        out += '{';
        for (const auto* member : members) {
            out += json::serialize(json::string(member->key()));
            out += ':';
            append_canonical(out, member->value());
            out += ',';
        }
        out += '}';
    } else if (value.is_array()) {
        out += '[';
        for (const json::value& item : value.get_array()) {
            append_canonical(out, item);
            out += ',';
        }
        out += ']';
    } else {
        out += json::serialize(value);
    }
}

}  // namespace qshard::tok
