#pragma once

#include <optional>
#include <string>

#include "io/formats/bnb_weight.h"

/// Whether a Hugging Face model's head is its embedding. config.json says so (tie_word_embeddings),
/// and files that were merged, resized or saved by other means contradict it.
namespace qshard {

/// What is known before weights are read.
struct HeadFacts {
    std::string origin;             ///< the model's folder, for messages
    bool tied_in_config = false;    ///< tie_word_embeddings, or the family's default
    bool tied_in_metadata = false;  ///< a file says that one of the two was left out for the other
    std::string head_name, embedding_name;
    TensorInFile head, embedding;       ///< null where the files have none
    std::optional<bool> tied_in_store;  ///< what was found when the weight store was made of them
};

struct HeadOfFiles {
    bool tied = false;
    bool stored_as_head = false;  ///< tied, and the one tensor has the head's name
    std::string note;             ///< what a user should know, or empty
};

/// As transformers 5 decides, but where it would start with random values: a head whose values
/// differ from the embedding's is the model's own whatever config.json says (with a note), equal
/// ones are tied where it says so, and one tensor serves as both where it says so. UserError if
/// both are missing, or if one is and neither config.json nor the files' metadata ties them.
HeadOfFiles head_of_files(const HeadFacts& facts);

}  // namespace qshard
