#include "io/data/token_range.h"

#include <fmt/format.h>

namespace qshard {

std::string beyond_embedding(std::int32_t id, std::string_view text, std::int64_t rows) {
    const std::string what = text.empty() ? fmt::format("token id {}", id)
                                          : fmt::format("token \"{}\" with id {}", text, id);
    return fmt::format(
        "{0} is beyond the vocabulary of {1}: the model's embedding has {1} rows (ids 0 to "
        "{2})\nWas "
        "the token added to the tokenizer only? Resize the embedding in transformers "
        "(model.resize_token_embeddings(len(tokenizer))) and give the model saved after that, or "
        "leave the token out.",
        what, rows, rows - 1);
}

}  // namespace qshard
