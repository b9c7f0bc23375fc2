#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <string>
#include <vector>

namespace qshard::inspect {

/// metrics.jsonl of an output folder (or the file itself). A torn last line, as a running or killed
/// job leaves it, is dropped; any other malformed line is a UserError with its number. Lines <= 16
/// MiB.
std::vector<boost::json::object> read_metrics(const std::filesystem::path& path);

}  // namespace qshard::inspect
