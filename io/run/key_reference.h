#pragma once

#include <string>

namespace qshard {

/// The reference of run-file keys, made from the schema: path, values, default and meaning of each
/// key whose path or meaning contains `pattern` in any case ("" for all), in lines of at most 80
/// columns. Empty if there is none.
std::string key_reference(const std::string& pattern);

}  // namespace qshard
