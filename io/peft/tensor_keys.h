#pragma once

#include <set>
#include <string>
#include <string_view>

/// Tensors of adapter files are not always named as PEFT's save_pretrained() names them today.
namespace qshard {

/// One name, made today's.
struct TensorKey {
    std::string name;     ///< "base_model.model.[...].lora_A.weight"
    std::string adapter;  ///< what the file calls the adapter ("lora_A.default.weight"), or empty
    bool copy_of_base = false;  ///< the untrained original that PEFT keeps beside a trained module
};

/// Undoes what state dicts that were saved whole have in their names: the adapter's name, PEFT's
/// modules_to_save, wrappers of torch.compile, DDP and FSDP, a missing "base_model.model."; and
/// the ending that magnitudes once had.
TensorKey tensor_key(std::string_view key);

/// UserError if `file` has several adapters: which is meant cannot be told.
void refuse_several_adapters(const std::set<std::string>& adapters, const std::string& file);

}  // namespace qshard
