#pragma once

#include <string_view>

#include "io/data/format.h"
#include "io/data/row_reader.h"

/// Conversations out of the columns of a row. UserErrors name the row, the column and the message.
namespace qshard {

/// The conversation of one column, with the row's tools and other variables, its system column as
/// the first turn, and its loss_mask. A turn is {role, content, ...} or ShareGPT's {from, value};
/// the column may be JSON text of the list. Turns of a call (function_call) become tool_calls.
ChatExample read_conversation(const RowReader& row, std::string_view column);

/// A conversation whose prompt (two columns, or the first of one) carries no loss.
ChatExample read_answer(const RowReader& row, std::string_view prompt, std::string_view answer);

/// Conversations that begin alike; the prompt is what they share.
PreferenceExample read_answers_that_share(const RowReader& row);

/// LLaMA-Factory's Alpaca row: system, history, and instruction with input below it as turns; the
/// answer is the text of the column `answer`, or left out if that is empty.
ChatExample read_instruction_turns(const RowReader& row, std::string_view answer);

}  // namespace qshard
