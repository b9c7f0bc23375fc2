#pragma once

#include "io/inspect/reports.h"

/// Weight stores on the command line.
namespace qshard::inspect {

bool is_weight_store(const std::filesystem::path& path);
/// What it was made from and into, and its units.
int print_store_summary(const Options& options);
/// What is wrong with it, or "". Reads all of it.
std::string problem_of_store(const std::filesystem::path& path);

}  // namespace qshard::inspect
