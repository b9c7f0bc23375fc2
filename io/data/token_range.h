#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qshard {

/// What is wrong with a token of an id that the embedding has no row for, and what to do: 'token
/// "<|mine|>" has id 259, but ...'. `text` may be empty.
std::string beyond_embedding(std::int32_t id, std::string_view text, std::int64_t rows);

}  // namespace qshard
