#pragma once

#include <string>

namespace qshard {

/// The reference of run-file keys, made from the schema: path, values, default and meaning of each
/// key whose path or meaning contains `pattern` in any case ("" for all), in lines of at most 80
/// columns. Empty if there is none.
std::string key_reference(const std::string& pattern);

/// What a word that may be meant as a key is in a run file: "did you mean \"adapter.r\"?", or "".
std::string key_meant(const std::string& word);

}  // namespace qshard
