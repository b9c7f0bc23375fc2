#pragma once

#include <string>
#include <string_view>

#include "spec/model_config.h"

namespace qshard {

/// A Hugging Face config.json (the dialects of transformers 4 and 5, also inside "text_config") as
/// a ModelConfig. UserError naming `origin`: an unknown family (with the list of known ones), a
/// value out of range, a checkpoint quantized by anything but bitsandbytes, or a key that is
/// neither understood nor known to leave the mathematics alone.
ModelConfig model_config_from_json(std::string_view text, const std::string& origin);

/// The members of such a file that decide what a model computes, in one spelling: two files with
/// the same text make the same model. What tells its age, its dtype or its origin is left out, and
/// so are special tokens, which show in the rows that are encoded with them.
std::string decisive_config(std::string_view text, const std::string& origin);

}  // namespace qshard
