#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint/state.h"
#include "io/peft/peft_config.h"

/// Adapters of a mixture's parameters as PEFT files them. Checkpoints have A [E, r, in] and
/// B [E, out, r] under the parameter's own path (".mlp.experts.gate_up_proj"). PEFT has A [E*r, in]
/// and B [out, r*E], whose columns k*E + e are expert e's, under the path of the module: a wrapper
/// for each parameter, that of gate_up_proj inside (".base_layer") where down_proj has one too.
namespace qshard {

struct LooseTensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};
using LooseTensors = std::map<std::string, LooseTensor>;

/// Tensors of a checkpoint as adapter_model.safetensors has them.
LooseTensors peft_tensors(const std::vector<NamedTensor>& tensors, std::span<const float> values);

/// The way back; takes the values out of `tensors`, but leaves those that have a checkpoint's form.
/// UserError (naming `file`) for shapes that contradict r and rank_pattern.
LooseTensors checkpoint_tensors(LooseTensors& tensors, const PeftConfig& config,
                                const std::string& file);

/// "model.layers.0.mlp.gate.weight" for the router's module, if target_parameters say so; else the
/// module itself: what rank_pattern is matched with.
std::string parameter_path(const std::string& module, const PeftConfig& config);
/// Whether it is one of a mixture's.
bool is_parameter_path(const std::string& path);

}  // namespace qshard
