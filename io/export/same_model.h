#pragma once

#include <string>

#include "spec/model_config.h"

namespace qshard {

/// What two descriptions of a model disagree on, by the names of ModelConfig ("norm_eps"), or "" if
/// they compute the same. Names, end-of-text tokens and the longest document are not looked at.
std::string difference_of(const ModelConfig& a, const ModelConfig& b);

}  // namespace qshard
