#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/row_keys.h"
#include "io/data/rows.h"

namespace qshard {

/// The columns of one row. A column that is null is as absent. Remembers which were asked for, so
/// that the others can be named or refused. UserErrors name the row's place.
class RowReader {
  public:
    explicit RowReader(const DataRow& row) : row_(row) {}

    [[noreturn]] void fail(const std::string& what) const;
    const std::string& place() const { return row_.place; }
    const boost::json::object& columns() const { return row_.columns; }

    /// Null if absent.
    const boost::json::value* find(std::string_view name) const;
    bool has(std::string_view name) const { return find(name) != nullptr; }
    const boost::json::value& column(std::string_view name) const;
    std::string text(std::string_view name) const;
    /// A text, number or boolean as text, for templates.
    std::string printable(std::string_view name) const;
    /// Integers of at least `lowest`.
    std::vector<std::int32_t> ids(std::string_view name, std::int64_t lowest) const;
    /// A list of 0 and 1, or of booleans.
    std::vector<bool> flags(std::string_view name) const;
    /// A list or an object: as it is, or what JSON text of it says.
    boost::json::value structure(std::string_view name) const;

    /// Refuses columns that mean something (row_keys.h) which nothing of this row asked for.
    void refuse_others() const;
    /// Notes the columns that nothing asked for.
    void note_others(RowNotes& notes) const;

  private:
    const DataRow& row_;
    mutable std::set<std::string, std::less<>> asked_;
};

}  // namespace qshard
