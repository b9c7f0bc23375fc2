#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat/template.h"
#include "io/data/conversation.h"
#include "io/data/format.h"
#include "io/data/row_keys.h"
#include "io/tokenizer/tokenizer.h"

namespace qshard {

/// What encoding asks of a tokenizer; the program wraps its Tokenizer, tests need none.
class TextEncoder {
  public:
    virtual ~TextEncoder() = default;
    virtual std::vector<std::int32_t> encode(std::string_view text,
                                             bool add_special_tokens) const = 0;
    virtual std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                                       bool add_special_tokens) const = 0;
    /// For messages; may be empty.
    virtual std::string token_text(std::int32_t) const { return ""; }
};

/// A document of tokens. labels[i] is what the model should predict for ids[i] (not shifted), or
/// -100.
struct EncodedRow {
    std::vector<std::int32_t> ids, labels;
    std::string place;                 ///< of the data row
    std::string_view chat_template{};  ///< "default" or "tool_use"; empty if none was used
    /// Positions that carry loss once shifted: labels but the first.
    std::int64_t supervised() const;
    std::int64_t given_tokens = 0;  ///< before the document was cut to max_length
    /// Tokens before the last run of supervised ones: what a model is given to write the answer.
    std::vector<std::int32_t> prompt() const;
    /// The last run of supervised tokens.
    std::vector<std::int32_t> completion() const;
};

/// Two documents that begin with the same prompt; labels are the answers', whatever loss_on says.
struct EncodedPair {
    EncodedRow chosen, rejected;
};

enum class AddBos { kAuto, kTrue, kFalse };
enum class Overlong { kTruncate, kSkip, kError };

struct EncodeOptions {
    FormatOptions format;
    bool loss_on_all = false;  ///< loss_on: all; else completions (assistant turns) only
    std::int64_t max_length = 512;
    Overlong overlong = Overlong::kTruncate;
    AddBos add_bos = AddBos::kAuto;  ///< kAuto: if the tokenizer's own post-processor puts bos_id
                                     ///< first. Not for messages.
    bool append_eos = true;  ///< after a completion or text, unless it is there. Not for messages.
    std::optional<std::int32_t> bos_id, eos_id;
    std::int64_t vocabulary_count = INT32_MAX;  ///< ids of rows must be below: the embedding's rows
    boost::json::object chat_variables;  ///< bos_token, eos_token and what else the template reads
};

/// Turns data rows into documents.
///
/// prompt-completion, instruction, template: ids(prompt) + ids(completion) + eos, encoded
/// separately, so that training sees what inference sees; the completion and eos carry loss. text:
/// ids + eos, all carry loss. messages: the rendered text is encoded as a whole, without adding
/// special tokens. Loss is on the tokens that touch what the template printed inside {% generation
/// %} blocks; without such blocks, for each assistant turn, on what is printed beyond the
/// generation prompt, up to the end of the turn: including the end-of-turn mark and the newline
/// that ChatML and Gemma write after it (as TRL does). Where a template prints an assistant turn
/// otherwise once more follows (Qwen3 drops its thinking), what it prints there is trained. Where
/// its generation prompt opens what turns are printed without (DeepSeek's reasoning), loss begins
/// where the two part (as TRL does), and the notes say so. Templates that print the turns before an
/// assistant's otherwise are refused with what to do. Turns that the row takes the loss from
/// (weight, train, loss_mask) have none, whatever else is trained.
/// preference: each answer after the prompt, as a prompt-completion row.
class RowEncoder {
  public:
    /// `chat` may be null if there is no template: rows of messages are refused then. Both must
    /// outlive the encoder.
    RowEncoder(const TextEncoder& tokenizer, const ChatTemplate* chat, EncodeOptions options);

    /// A document, or the pair of a preference row, of at most max_length tokens each, their start
    /// kept (overlong: truncate), or neither if skipped. UserError naming the row's place.
    struct Outcome {
        std::optional<EncodedRow> row;
        std::optional<EncodedPair> pair;
        bool truncated = false;
        std::int64_t given_tokens = 0;     ///< of the longest document before any was cut
        std::int64_t supervised_lost = 0;  ///< tokens with loss that were cut off, or skipped
        double weight = 1;  ///< how often an epoch takes it, by its own column; 0: neither is made
        RowNotes notes;     ///< of a row that is kept
    };
    Outcome encode(const DataRow& row) const;

    const EncodeOptions& options() const { return options_; }

  private:
    EncodedRow encode_example(const Example& example, RowNotes& notes) const;
    EncodedPair encode_pair(const PreferenceExample& example, RowNotes& notes) const;
    void check_ids(const EncodedRow& made) const;
    bool fit(EncodedRow& made, const std::string& place, Outcome& outcome) const;
    EncodedRow encode_text(const TextExample& example) const;
    EncodedRow encode_prompt(const PromptExample& example, bool loss_on_all) const;
    EncodedRow encode_tokens(const TokenExample& example) const;
    EncodedRow encode_chat(const ChatExample& example, bool loss_on_all, RowNotes& notes) const;
    bool starts_with_bos() const;

    const TextEncoder& tokenizer_;
    const ChatTemplate* chat_;
    EncodeOptions options_;
    bool add_bos_;
};

}  // namespace qshard
