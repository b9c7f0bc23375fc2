#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint/file_image.h"
#include "io/checkpoint/state.h"

/// CheckpointState <-> the bytes of an HDF5 file (its layout: README.md). Equal states give equal
/// bytes.
namespace qshard {

/// Gives up each vector of the state once it is written, so that memory holds little twice.
FileImage encode_checkpoint(CheckpointState state);

/// Strict: everything must be there, of the exact type, and consistent; else UserError. Only for
/// bytes whose digest has been verified; others go through load_foreign_checkpoint().
CheckpointState decode_checkpoint(std::span<const std::byte> image);

/// SHA-256 of each vector.
struct VectorDigests {
    std::string adapter;
    std::map<std::string, std::string> optimizer;

    bool operator==(const VectorDigests&) const = default;
};
VectorDigests digests_of(const CheckpointState& state);

/// decode_checkpoint() where one vector at a time fits: the facts, and the vectors' digests.
CheckpointFacts decode_facts(std::span<const std::byte> image, VectorDigests& digests);

}  // namespace qshard
