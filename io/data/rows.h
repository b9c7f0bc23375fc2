#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qshard {

/// One row of a data file.
struct DataRow {
    boost::json::object columns;
    std::string place;  ///< "train.jsonl:1207" (line), "train.json, row 12" (element): for messages
};

/// Reads every row of a .jsonl, .json (an array of objects, or lines) or .csv (RFC 4180, header
/// row; every column is text) file. Empty lines are skipped, a byte order mark is dropped.
/// UserError naming file and line for bad UTF-8, bad JSON, a key twice, nesting beyond 32, a line
/// beyond 16 MiB, a .json file beyond 1 GiB, a csv row with another number of fields than the
/// header, no rows. SystemError if the file cannot be read.
std::vector<DataRow> read_rows(const std::string& path);

/// The columns of a row, for messages: "prompt, answer".
std::string column_names(const boost::json::object& columns);

}  // namespace qshard
