#pragma once

#include <memory>
#include <string>

#include "io/formats/gguf.h"
#include "io/tokenizer/tokenizer.h"
#include "spec/weights.h"

namespace qshard {

/// The weights of a GGUF model in Hugging Face's terms: names, rows of q and k in rotate-half
/// order, Gemma's norms without the 1 that its files add.
std::unique_ptr<WeightReader> open_gguf_model(std::shared_ptr<const GgufFile> file);

/// Nothing if the file has no vocabulary. UserError if it has more than 1 Mi tokens or lists of
/// unequal length.
std::optional<GgufTokenizerData> gguf_tokenizer(const GgufFile& file);

}  // namespace qshard
