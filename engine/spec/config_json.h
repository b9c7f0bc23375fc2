#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "spec/json_keys.h"
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

/// "eos_token_id" (an id or a list), "bos_token_id" and "pad_token_id" of config.json or
/// generation_config.json; null and -1 stand for none.
struct SpecialIds {
    std::vector<std::int32_t> eos;
    std::optional<std::int32_t> bos, pad;
};
/// UserError for an id that the embedding of `vocabulary` rows has not.
SpecialIds special_ids(JsonKeys& keys, std::int64_t vocabulary);

}  // namespace qshard
