#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Python's str, on UTF-8: positions and lengths count code points, white space and case are
/// Unicode's. Case mapping is the simple one (one code point to one), so "ß".upper() stays "ß".
namespace qshard::jinja {

/// True if `text` is well-formed UTF-8 (no surrogates, no overlong forms, at most U+10FFFF).
bool valid_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t code_point);
/// Decodes the code point at `position` and moves past it; a malformed byte yields U+FFFD.
char32_t next_code_point(std::string_view text, std::size_t& position);
std::int64_t count_code_points(std::string_view text);
/// Byte offset of every code point, then text.size().
std::vector<std::size_t> code_point_offsets(std::string_view text);

bool is_space(char32_t code_point);
/// str.strip and its one-sided forms: removes white space, or the code points of `chars`.
std::string_view strip(std::string_view text, std::optional<std::string_view> chars, bool left,
                       bool right);
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
/// Jinja's title filter: a word begins after white space or one of -([{<.
std::string title_filter(std::string_view text);
/// str.title: a word begins after anything that is not a letter.
std::string title_method(std::string_view text);
bool is_letter(char32_t code_point);

/// str.split and str.rsplit; without a separator at runs of white space. max_splits < 0 means all.
std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               std::int64_t max_splits, bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
/// str.replace; count < 0 means all. An empty `old` matches between code points.
std::string replace(std::string_view text, std::string_view old, std::string_view replacement,
                    std::int64_t count);
/// First byte offset of `needle` from `from` on, or npos; linear time.
std::size_t find_text(std::string_view text, std::string_view needle, std::size_t from = 0);
/// repr(str).
std::string repr(std::string_view text);

}  // namespace qshard::jinja
