#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "io/checkpoint/state.h"
#include "io/peft/embedding_copies.h"
#include "io/peft/peft_config.h"
#include "spec/adapter.h"

/// PEFT adapter folders: adapter_config.json, adapter_model.safetensors, README.md.
namespace qshard {

struct PeftAdapter {
    PeftConfig config;
    std::string config_json;           ///< verbatim
    std::vector<NamedTensor> tensors;  ///< sorted by name, tiling `values`; lora_A [r, in], lora_B
                                       ///< [out, r], with DoRA lora_magnitude_vector [out];
                                       ///< whole weights of modules_to_save, and biases [out]; of
                                       ///< experts as checkpoints have them (expert_tensors.h)
    std::vector<float> values;         ///< bf16 and fp16 files are widened exactly
    std::string sha256;                ///< of adapter_model.safetensors
    EmbeddingCopies copies;            ///< to be checked against the base

    /// "model.layers.0.self_attn.q_proj" of every adapted module, sorted: as target_modules these
    /// select exactly the modules the file has, whatever list, pattern or exclusion PEFT chose them
    /// by.
    std::vector<std::string> modules() const;
};

/// Reads and checks a folder. UserError: unsupported features (by name), tensors other than pairs
/// of lora_A and lora_B (and magnitudes, with use_dora), weights of modules_to_save and, with bias,
/// biases, shapes that contradict r and rank_pattern, malformed files. adapter_model.bin (pickle)
/// is never read.
PeftAdapter read_peft_adapter(const std::filesystem::path& folder);

/// The configuration with exactly the modules that `tensors` are of, whatever list, pattern or
/// exclusion PEFT chose them by.
AdapterOptions adapter_options(const PeftConfig& config, const std::vector<NamedTensor>& tensors);

/// The modules of a model that the configuration's own words choose, whatever a file has: what PEFT
/// would give an adapter. Of mixtures none, whose parameters are known by their tensors alone.
std::set<std::string> chosen_modules(const PeftConfig& config, const ModelConfig& model);

/// Writes the state's adapter. Every file appears whole or not at all; the folder is created. Loads
/// in PEFT.
void write_peft_adapter(const std::filesystem::path& folder, const CheckpointState& state);

/// README.md of an adapter folder: front matter for the Hub, how to load, how it was trained.
std::string model_card(const CheckpointState& state, const PeftConfig& config);

}  // namespace qshard
