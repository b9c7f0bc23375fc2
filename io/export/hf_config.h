#pragma once

#include <boost/json/object.hpp>

#include "base/dtype.h"
#include "spec/model_config.h"

namespace qshard {

/// config.json of a model that has none (GGUF), for weights of `dtype`. UserError if it would not
/// read back as the same model.
boost::json::object hf_config_of(const ModelConfig& config, DType dtype);

/// transformers' class of a model_type; UserError if it has none here.
std::string_view class_name(std::string_view model_type);

}  // namespace qshard
