#pragma once

#include "main/session.h"

namespace qshard {

/// Finds out what begins and ends a text: bos, eos, add_bos and the variables of chat templates of
/// `model`, whose source and tokenizer are open. What tokenizer_config.json (with
/// special_tokens_map.json, as transformers reads the two) names comes first, then the ids of the
/// model's own configuration. Adds to the model's notes what a user should know. UserError if the
/// token that begins or ends a text is beyond the embedding.
void resolve_special_tokens(TextModel& model);

}  // namespace qshard
