#pragma once

#include <filesystem>

#include "io/checkpoint/state.h"

namespace qshard {

/// Reads a checkpoint file of unknown origin (no manifest). libhdf5 sees it only in a child process
/// that can neither open files nor start programs nor use the network (seccomp), within limits of
/// memory and CPU time; the child hands back the state encoded afresh. For inspection, never for
/// training. UserError if the child refuses, fails or crashes.
CheckpointState load_foreign_checkpoint(const std::filesystem::path& file);

}  // namespace qshard
