#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint/state.h"

/// CheckpointState <-> the bytes of an HDF5 file (its layout: README.md). Equal states give equal
/// bytes.
namespace qshard {

std::vector<std::byte> encode_checkpoint(const CheckpointState& state);

/// Strict: everything must be there, of the exact type, and consistent; else UserError. Only for
/// bytes whose digest has been verified; others go through load_foreign_checkpoint().
CheckpointState decode_checkpoint(std::span<const std::byte> image);

}  // namespace qshard
