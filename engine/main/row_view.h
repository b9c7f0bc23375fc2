#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "io/data/encode.h"

/// Rows as people look at them: the text that the model sees, with the part that it learns marked.
namespace qshard {

/// Tokens as text, special tokens included.
using DecodeTokens = std::function<std::string(std::span<const std::int32_t> ids)>;

struct RowViewStyle {
    bool color = false;  ///< what is learnt is green; else it stands in brackets [ ], and brackets
                         ///< of the text itself are written \[ and \]
    bool ids = false;    ///< show token ids instead of text, those that are learnt marked alike
    int width = 0;       ///< of the terminal; 0: lines are not wrapped
};

/// The document in lines that begin with "  | ". Control characters but line breaks are written
/// \x1b, marks of direction and of no width \u202e, backslashes of the text \\; a line break that
/// is learnt is shown as \n before the break.
std::string row_view(const EncodedRow& row, const DecodeTokens& decode, const RowViewStyle& style);

}  // namespace qshard
