#pragma once

#include <boost/json/value.hpp>
#include <cstddef>
#include <string>
#include <string_view>

/// JSON as untrusted input: one strict door for config.json, shard indexes and safetensors headers.
namespace qshard {

struct JsonLimits {
    std::size_t bytes = std::size_t{1} << 20;
    std::size_t depth = 32;
    /// Python writes NaN, Infinity and -Infinity: read them as strings of that spelling, so that a
    /// number asked for there is refused and one nobody asks for does no harm.
    bool non_finite = false;
};

/// Parses one document of UTF-8 JSON. UserError naming `origin` if it is longer or deeper than the
/// limits, malformed, or an object has the same key twice.
boost::json::value parse_strict_json(std::string_view text, const std::string& origin,
                                     const JsonLimits& limits = {});

}  // namespace qshard
