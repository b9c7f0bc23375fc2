#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace qshard {

/// The order that AdapterLayout gives to the tensors of an adapter, found by their names alone, so
/// that a folder of PEFT's, which is sorted by name and has no model beside it, can be put into the
/// order of the run that made it. Names are those of checkpoints (AdapterTensor::name). Modules
/// that no family of ours has lie behind the others of their layer, sorted by name.
///
/// Returns the places of `names` in that order: order[0] is the index of the first.
std::vector<std::size_t> layout_order(std::span<const std::string> names);

}  // namespace qshard
