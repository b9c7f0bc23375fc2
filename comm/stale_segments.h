#pragma once

#include <string>

namespace qshard {

/// Removes Open MPI's shared-memory files (vader_segment.*) in `shared` that hard kills left
/// behind: regular files of this user, older than a minute, that no process listed in `proc` maps.
/// Returns how many; never throws.
int remove_stale_segments(const std::string& shared, const std::string& proc) noexcept;

}  // namespace qshard
