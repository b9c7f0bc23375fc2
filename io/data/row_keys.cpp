#include "io/data/row_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace qshard {
namespace {

constexpr std::string_view kTextOnly = "models are trained on text alone. Take these rows out.";

constexpr std::array kColumns{
    KnownKey{"messages", KeyUse::kHonoured, "a conversation: a list, or JSON text of it"},
    KnownKey{"conversations", KeyUse::kHonoured, "a conversation of ShareGPT, or the same"},
    KnownKey{"prompt", KeyUse::kHonoured, "text or messages without loss"},
    KnownKey{"completion", KeyUse::kHonoured, "text or messages with loss"},
    KnownKey{"instruction", KeyUse::kHonoured, "Alpaca's task"},
    KnownKey{"input", KeyUse::kHonoured, "Alpaca's context"},
    KnownKey{"output", KeyUse::kHonoured, "Alpaca's answer"},
    KnownKey{"chosen", KeyUse::kHonoured, "the better answer"},
    KnownKey{"rejected", KeyUse::kHonoured, "the worse answer"},
    KnownKey{"text", KeyUse::kHonoured, "a text, all of it with loss"},
    KnownKey{"input_ids", KeyUse::kHonoured, "token ids"},
    KnownKey{"labels", KeyUse::kHonoured, "of token ids: -100 has no loss"},
    KnownKey{"completion_mask", KeyUse::kHonoured, "of token ids: 0 has no loss (TRL)"},
    KnownKey{"assistant_masks", KeyUse::kHonoured, "of token ids: 0 has no loss (TRL)"},
    KnownKey{"attention_mask", KeyUse::kHonoured, "of token ids: all 1"},
    KnownKey{"position_ids", KeyUse::kHonoured, "of token ids: counted from 0"},
    KnownKey{"tools", KeyUse::kHonoured, "for the chat template: a list, or JSON text of it"},
    KnownKey{"documents", KeyUse::kHonoured, "for the chat template: a list, or JSON text of it"},
    KnownKey{"chat_template_kwargs", KeyUse::kHonoured, "variables of the chat template"},
    KnownKey{"weight", KeyUse::kHonoured,
             "how often an epoch takes the row, times the weight of its file; 0: never"},
    KnownKey{"functions", KeyUse::kBinding, "tools as OpenAI's interface once had them"},
    KnownKey{"system", KeyUse::kBinding, "the first turn of a conversation"},
    KnownKey{"history", KeyUse::kBinding, "Alpaca's turns before: [[user, assistant], ...]"},
    KnownKey{"loss_mask", KeyUse::kBinding, "1 or 0 for each message, or for each token id"},
    KnownKey{"segments", KeyUse::kRefused,
             "Axolotl's input_output is not supported. Write prompt and completion, or input_ids "
             "and labels."},
    KnownKey{"images", KeyUse::kRefused, kTextOnly},
    KnownKey{"image", KeyUse::kRefused, kTextOnly},
    KnownKey{"videos", KeyUse::kRefused, kTextOnly},
    KnownKey{"video", KeyUse::kRefused, kTextOnly},
    KnownKey{"audios", KeyUse::kRefused, kTextOnly},
    KnownKey{"audio", KeyUse::kRefused, kTextOnly},
    KnownKey{"kto_tag", KeyUse::kRefused,
             "answers marked as good or bad are not a kind of row here. Keep the good ones and "
             "take the column out."},
};

constexpr std::array kMessageKeys{
    KnownKey{"role", KeyUse::kHonoured, "who speaks"},
    KnownKey{"content", KeyUse::kHonoured, "text, or a list of parts of text"},
    KnownKey{"tool_calls", KeyUse::kHonoured, "for the chat template; arguments also as JSON text"},
    KnownKey{"function_call", KeyUse::kHonoured, "a tool call as OpenAI's interface once had them"},
    KnownKey{"reasoning_content", KeyUse::kHonoured, "the reasoning before the answer"},
    KnownKey{"reasoning", KeyUse::kHonoured, "the same"},
    KnownKey{"thinking", KeyUse::kHonoured, "the same"},
    KnownKey{"weight", KeyUse::kHonoured, "0: a turn without loss (OpenAI, Mistral)"},
    KnownKey{"train", KeyUse::kHonoured, "false: a turn without loss (Axolotl)"},
    KnownKey{"training", KeyUse::kHonoured, "the same"},
    KnownKey{"loss", KeyUse::kHonoured, "the same (ms-swift)"},
    KnownKey{"train_detail", KeyUse::kRefused,
             "loss on parts of a turn is not supported. Split the turn, or write input_ids and "
             "labels."},
    KnownKey{"images", KeyUse::kRefused, kTextOnly},
    KnownKey{"image", KeyUse::kRefused, kTextOnly},
    KnownKey{"videos", KeyUse::kRefused, kTextOnly},
    KnownKey{"audio", KeyUse::kRefused, kTextOnly},
};

}  // namespace

std::span<const KnownKey> known_columns() {
    return kColumns;
}

std::span<const KnownKey> known_message_keys() {
    return kMessageKeys;
}

const KnownKey* find_key(std::span<const KnownKey> keys, std::string_view name) {
    const auto it = std::find_if(keys.begin(), keys.end(),
                                 [&](const KnownKey& key) { return key.name == name; });
    return it == keys.end() ? nullptr : &*it;
}

bool is_empty(const boost::json::value& value) {
    if (const auto* text = value.if_string()) return text->empty();
    if (const auto* array = value.if_array()) return array->empty();
    if (const auto* object = value.if_object()) return object->empty();
    return value.is_null();
}

void RowNotes::add(const RowNotes& other) {
    for (const auto& [name, rows] : other.unread) unread[name] += rows;
    for (const auto& [sentence, rows] : other.remarks) remarks[sentence] += rows;
}

std::vector<std::string> RowNotes::lines() const {
    std::vector<std::string> made;
    const auto rows_text = [](std::int64_t rows) {
        return fmt::format("{} {}", rows, rows == 1 ? "row" : "rows");
    };
    // Keys of equally many rows are named together.
    std::map<std::int64_t, std::vector<std::string>, std::greater<>> by_rows;
    for (const auto& [name, rows] : unread) by_rows[rows].push_back(name);
    for (const auto& [rows, names] : by_rows) {
        made.push_back(fmt::format("columns that nothing reads: {} ({})", fmt::join(names, ", "),
                                   rows_text(rows)));
    }
    for (const auto& [sentence, rows] : remarks)
        made.push_back(fmt::format("{} ({})", sentence, rows_text(rows)));
    return made;
}

}  // namespace qshard
