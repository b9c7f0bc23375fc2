#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/data/row_keys.h"
#include "io/data/rows.h"

namespace qshard {

/// What the columns of a row mean.
enum class RowFormat {
    kAuto,
    kMessages,          ///< messages: [{role, content}, ...]; optionally tools
    kPromptCompletion,  ///< prompt, completion: texts, or lists of messages
    kInstruction,       ///< instruction, output, optionally input: Alpaca's prompt. With a column
                        ///< system or history (LLaMA-Factory): turns for the chat template
    kShareGpt,          ///< conversations: [{from, value}, ...]; optionally tools, system
    kText,              ///< text
    kTemplate,          ///< a prompt template over any columns, and a completion column
    kTokenized,         ///< input_ids, optionally labels (-100: no loss)
    kPreference,        ///< chosen, rejected, optionally prompt: texts, or lists of messages
};

/// A name of the run file: auto, messages, prompt-completion, instruction, sharegpt, text,
/// template, tokenized, preference.
RowFormat parse_row_format(std::string_view name);
const char* name_of(RowFormat format);

struct FormatOptions {
    RowFormat format = RowFormat::kAuto;
    std::string prompt_template;  ///< "Mask:\n{text}\n"; {{ and }} are braces
    std::string completion_column = "completion";
};

struct TextExample {
    std::string text;
};
struct PromptExample {
    std::string prompt, completion;
};
/// What a row says of the loss on one message.
enum class TurnLoss : std::uint8_t { kAsItsRole, kNone, kWanted };

/// A conversation as a row has it, of one shape whatever the row's: messages {role, content, ...}.
/// Conversation makes it what a chat template takes.
struct ChatExample {
    boost::json::array messages;
    /// Messages before this one are the prompt of a prompt-completion row: no loss. 0: every
    /// assistant turn counts.
    std::size_t prompt_count = 0;
    boost::json::object variables;  ///< tools, documents and the like of the row
    std::vector<TurnLoss> loss;     ///< of each message; shorter: kAsItsRole
    TurnLoss loss_of(std::size_t message) const {
        return message < loss.size() ? loss[message] : TurnLoss::kAsItsRole;
    }
};
struct TokenExample {
    std::vector<std::int32_t> ids, labels;
};
/// Two answers to one prompt, both texts or both conversations.
struct PreferenceExample {
    std::variant<PromptExample, ChatExample> chosen, rejected;
};
using Example =
    std::variant<TextExample, PromptExample, ChatExample, TokenExample, PreferenceExample>;

/// Reads a row. kAuto decides by its columns, the template first if there is one. UserError naming
/// the place, the column and the columns found, also for columns that mean something to other
/// tools and nothing here (row_keys.h). With `notes`, adds there what nothing reads.
Example interpret_row(const DataRow& row, const FormatOptions& options, RowNotes* notes = nullptr);

/// What a row asks a model, without the answer that it may have.
struct QuestionExample {
    std::variant<std::string, ChatExample> asked;  ///< a text, or turns
    std::string column;                            ///< that it comes from
    bool had_answer = false;                       ///< the last turn, the assistant's, is left out
};
/// Reads it of a column prompt (text or messages), messages, conversations or instruction.
/// UserError as interpret_row.
QuestionExample interpret_question(const DataRow& row);

/// How often an epoch takes the row: its column "weight" where its format has one, else 1.
/// UserError unless it is a number from 0 to 1000.
double row_weight(const DataRow& row, const FormatOptions& options);

/// The format that kAuto takes for these columns; UserError naming `place` if none fits.
RowFormat detect_format(const boost::json::object& columns, const FormatOptions& options,
                        const std::string& place);

}  // namespace qshard
