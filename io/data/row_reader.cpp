#include "io/data/row_reader.h"

#include "base/error.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace json = boost::json;

std::string kind_of(const json::value& value) {
    return std::string(json::to_string(value.kind()));
}

}  // namespace

void RowReader::fail(const std::string& what) const {
    throw UserError(fmt::format("{}: {}", row_.place, what));
}

const json::value* RowReader::find(std::string_view name) const {
    asked_.emplace(name);
    const json::value* value = row_.columns.if_contains(name);
    return value == nullptr || value->is_null() ? nullptr : value;
}

const json::value& RowReader::column(std::string_view name) const {
    const json::value* value = find(name);
    if (value != nullptr) return *value;
    fail(fmt::format("column \"{}\" is {} (found: {}). Set data.format, or rename the column.",
                     name, row_.columns.contains(name) ? "null" : "missing",
                     column_names(row_.columns)));
}

std::string RowReader::text(std::string_view name) const {
    const json::value& value = column(name);
    if (!value.is_string())
        fail(fmt::format("column \"{}\" is not text but {}", name, kind_of(value)));
    return std::string(value.get_string());
}

std::string RowReader::printable(std::string_view name) const {
    const json::value& value = column(name);
    if (value.is_string()) return std::string(value.get_string());
    if (value.is_array() || value.is_object()) {
        fail(fmt::format("column \"{}\" is {}: a template takes text, numbers and booleans", name,
                         kind_of(value)));
    }
    return json::serialize(value);
}

std::vector<std::int32_t> RowReader::ids(std::string_view name, std::int64_t lowest) const {
    const json::value& value = column(name);
    if (!value.is_array()) fail(fmt::format("column \"{}\" must be a list of integers", name));
    std::vector<std::int32_t> ids;
    for (const json::value& element : value.get_array()) {
        const std::int64_t* id = element.if_int64();
        if (id == nullptr || *id < lowest || *id > INT32_MAX) {
            fail(fmt::format("column \"{}\" has {}, expected integers from {} to {}", name,
                             json::serialize(element), lowest, INT32_MAX));
        }
        ids.push_back(static_cast<std::int32_t>(*id));
    }
    return ids;
}

std::vector<bool> RowReader::flags(std::string_view name) const {
    const json::value list = structure(name);
    std::vector<bool> flags;
    for (const json::value& element : list.is_array() ? list.get_array() : json::array{nullptr}) {
        const bool one = element == 1 || element == true;
        if (!one && element != 0 && element != false)
            fail(fmt::format("column \"{}\" must be a list of 0 and 1", name));
        flags.push_back(one);
    }
    return flags;
}

json::value RowReader::structure(std::string_view name) const {
    const json::value& value = column(name);
    if (!value.is_string()) return value;
    try {
        return parse_strict_json(value.get_string(), "its text", {.bytes = std::size_t{16} << 20});
    } catch (const UserError& error) {
        fail(fmt::format("column \"{}\" is text that is no JSON: {}", name, error.what()));
    }
}

void RowReader::refuse_others() const {
    for (const auto& column : row_.columns) {
        const KnownKey* known = find_key(known_columns(), column.key());
        if (known == nullptr || known->use == KeyUse::kHonoured) continue;
        if (asked_.contains(column.key()) || is_empty(column.value())) continue;
        if (known->use == KeyUse::kRefused)
            fail(fmt::format("column \"{}\": {}", known->name, known->meaning));
        fail(
            fmt::format("column \"{}\" ({}) has no meaning for this kind of row. Take it out, or "
                        "set data.format or data.template.",
                        known->name, known->meaning));
    }
}

void RowReader::note_others(RowNotes& notes) const {
    for (const auto& column : row_.columns) {
        if (!asked_.contains(column.key()) && !is_empty(column.value()))
            ++notes.unread[std::string(column.key())];
    }
}

}  // namespace qshard
