#pragma once

#include <string>

namespace qshard {

/// What an adapter was trained on, as people who load it must name it. Told by
/// base_model_name_or_path, and by the files there if they are on this machine.
struct BaseModel {
    enum class Kind { kUnknown, kFolder, kGguf, kStore };

    Kind kind = Kind::kUnknown;
    std::string path;       ///< as adapter_config.json has it
    std::string hub_id;     ///< OWNER/NAME: itself, or of a path in huggingface_hub's cache; or ""
    std::string made_from;  ///< of a weight store: the model that it was made from, or ""
    std::string quantized;  ///< of a folder: its quant_method ("bitsandbytes"), or ""

    std::string folder() const;     ///< of a GGUF file
    std::string file_name() const;  ///< the last name of the path
};

/// Never throws: what cannot be read is left out.
BaseModel describe_base_model(const std::string& base_model_name_or_path);

/// Whether it has the form of a model's name on the Hub: OWNER/NAME.
bool is_hub_id(const std::string& name);

}  // namespace qshard
