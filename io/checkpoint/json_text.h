#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

namespace qshard {

/// The bytes of Python's json.dumps(value, indent=2, sort_keys=True): sorted keys, ASCII only,
/// shortest floats. PEFT and transformers write their configurations this way.
std::string python_json(const boost::json::value& value);

/// The JSON string literal of `text` (ASCII only, as Python writes it).
std::string json_quoted(std::string_view text);

}  // namespace qshard
