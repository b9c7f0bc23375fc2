#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// Small texts that lie where a file should be: pointers of Git LFS, git-annex and Xet, and the web
/// page that a download ended in.
namespace qshard {

/// Bytes of a file's begin that tell.
inline constexpr std::size_t kPlaceholderBytes = 128;

/// UserError that says what lies there and how to get the file, if `begin` is such a text's.
void refuse_placeholder(std::string_view begin, const std::string& name);

}  // namespace qshard
