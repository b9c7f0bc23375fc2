#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "spec/adapter.h"

/// What PEFT makes of a model with experts: transformers 5 holds all experts of a layer in two
/// parameters, and so has no modules for their linears, nor for the router.
namespace qshard {

/// Whether a module's path is a name or ends in it.
bool path_ends_in(std::string_view path, std::string_view name);
std::string last_component(std::string_view path);

/// Whether a linear is a module that PEFT can adapt. Of a model with experts only attention is:
/// PEFT takes every name of an MLP's linear there, whatever its layer, for the experts.
bool is_module(const ModelConfig& config, Role linear);

/// Options as convert_peft_config_for_transformers() changes them: names of a mixture's linears
/// become target_parameters, a pair of gate and up with twice the rank and alpha.
AdapterOptions with_parameters(const ModelConfig& config, AdapterOptions options);

/// The parameter that begins with this weight of a mixture, without rank and place; nothing for the
/// weights after it.
std::optional<AdapterTarget> parameter_target(const ModelConfig& config, std::int64_t layer,
                                              const WeightSpec& weight);

/// UserError if parameters meet dropout or DoRA: PEFT's ParamWrapper works
/// with neither.
void check_parameters(const AdapterLayout& layout);

}  // namespace qshard
