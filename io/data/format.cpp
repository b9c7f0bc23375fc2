#include "io/data/format.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "io/data/messages.h"
#include "io/data/row_reader.h"

namespace qshard {
namespace {

namespace json = boost::json;
constexpr std::array<std::pair<RowFormat, const char*>, 9> kNames{
    {{RowFormat::kAuto, "auto"},
     {RowFormat::kMessages, "messages"},
     {RowFormat::kPromptCompletion, "prompt-completion"},
     {RowFormat::kInstruction, "instruction"},
     {RowFormat::kShareGpt, "sharegpt"},
     {RowFormat::kText, "text"},
     {RowFormat::kTemplate, "template"},
     {RowFormat::kTokenized, "tokenized"},
     {RowFormat::kPreference, "preference"}}};

std::string fill_template(const RowReader& row, const std::string& text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c != '{' && c != '}') {
            out += c;
        } else if (i + 1 < text.size() && text[i + 1] == c) {
            out += c;
            ++i;
        } else {
            const std::size_t end = c == '{' ? text.find('}', i) : std::string::npos;
            if (end == std::string::npos)
                row.fail("data.template has a single { or }: write {{ or }} for a brace");
            out += row.printable(text.substr(i + 1, end - i - 1));
            i = end;
        }
    }
    return out;
}

/// Alpaca's prompt, as Axolotl writes it (a newline after "### Response:").
std::string alpaca_prompt(const RowReader& row) {
    const std::string input = row.has("input") ? row.text("input") : std::string();
    const std::string context =
        input.empty() ? "" : ", paired with an input that provides further context";
    std::string prompt = fmt::format(
        "Below is an instruction that describes a task{}. Write a response that appropriately "
        "completes the request.\n\n"
        "### Instruction:\n{}\n\n",
        context, row.text("instruction"));
    if (!input.empty()) prompt += fmt::format("### Input:\n{}\n\n", input);
    return prompt + "### Response:\n";
}

/// A file of LLaMA-Factory has these columns in every row, though they are empty in most: all of
/// its rows are to be conversations.
bool has_turns(const RowReader& row) {
    return row.columns().contains("system") || row.columns().contains("history");
}

Example instruction(const RowReader& row) {
    if (has_turns(row)) return read_instruction_turns(row, "output");
    return PromptExample{alpaca_prompt(row), row.text("output")};
}

/// Whether a column is a list, or JSON text of a list of messages, as CSV files have them.
bool is_list(const RowReader& row, std::string_view name) {
    const json::value* value = row.find(name);
    if (value == nullptr || !value->is_string()) return value != nullptr && value->is_array();
    if (!value->get_string().starts_with("[")) return false;
    boost::system::error_code error;
    const json::value parsed = json::parse(value->get_string(), error);
    if (error || !parsed.is_array() || parsed.get_array().empty()) return false;
    return std::ranges::all_of(parsed.get_array(), [](const json::value& one) {
        return one.is_object() &&
               (one.get_object().contains("role") || one.get_object().contains("from"));
    });
}

Example prompt_completion(const RowReader& row) {
    const bool messages = is_list(row, "prompt");
    row.column("prompt");
    row.column("completion");
    if (is_list(row, "completion") != messages) {
        row.fail(fmt::format(
            "column \"prompt\" is {} and \"completion\" is {}: expected two texts, or two lists of "
            "messages",
            messages ? "a list of messages" : "text", messages ? "text" : "a list of messages"));
    }
    if (messages) return read_answer(row, "prompt", "completion");
    return PromptExample{row.text("prompt"), row.text("completion")};
}

/// Where the prompt that two answers begin with ends, as TRL's extract_prompt cuts it: where they
/// first differ, at the latest before the last byte of the shorter.
std::size_t shared_count(std::string_view a, std::string_view b) {
    const std::size_t most = std::min(a.size(), b.size());
    std::size_t count = 0;
    while (count + 1 < most && a[count] == b[count]) ++count;
    return count;
}

PreferenceExample implicit_texts(const RowReader& row) {
    const std::string chosen = row.text("chosen"), rejected = row.text("rejected");
    std::size_t end = shared_count(chosen, rejected);
    // Never inside of a character; and a space before the answers belongs to them.
    while (end > 0 && (static_cast<unsigned char>(chosen[end]) & 0xC0U) == 0x80U) --end;
    if (end > 0 && chosen[end - 1] == ' ') --end;
    return {PromptExample{chosen.substr(0, end), chosen.substr(end)},
            PromptExample{rejected.substr(0, end), rejected.substr(end)}};
}

/// Answers of LLaMA-Factory: turns after a conversation, or texts after an instruction.
std::optional<PreferenceExample> factory_preference(const RowReader& row) {
    if (row.has("conversations")) {
        return PreferenceExample{read_answer(row, "conversations", "chosen"),
                                 read_answer(row, "conversations", "rejected")};
    }
    if (row.has("prompt") || !row.has("instruction")) return std::nullopt;
    const auto answer = [&](const char* column) {
        ChatExample example = read_instruction_turns(row, column);
        example.prompt_count = example.messages.size() - 1;
        return example;
    };
    return PreferenceExample{answer("chosen"), answer("rejected")};
}

/// TRL's preference format. Beside conversations a prompt that is a text (as in
/// ultrafeedback_binarized) repeats what they begin with.
PreferenceExample preference(const RowReader& row) {
    if (auto factory = factory_preference(row)) return *std::move(factory);
    const bool messages = row.column("chosen").is_array();
    if (row.column("rejected").is_array() != messages)
        row.fail("columns \"chosen\" and \"rejected\" must both be texts, or both be messages");
    const bool explicit_prompt = row.has("prompt") && row.column("prompt").is_array() == messages;
    if (!explicit_prompt && row.has("prompt") && !messages)
        row.fail("column \"prompt\" must be a text, as \"chosen\" and \"rejected\" are");
    if (!explicit_prompt) return messages ? read_answers_that_share(row) : implicit_texts(row);
    if (messages)
        return {read_answer(row, "prompt", "chosen"), read_answer(row, "prompt", "rejected")};
    return {PromptExample{row.text("prompt"), row.text("chosen")},
            PromptExample{row.text("prompt"), row.text("rejected")}};
}

/// Takes the labels of tokens that a mask of the row has 0 for.
void apply_mask(const RowReader& row, const char* name, TokenExample& example) {
    if (!row.has(name)) return;
    const std::vector<bool> mask = row.flags(name);
    if (mask.size() != example.ids.size()) {
        row.fail(fmt::format("column \"{}\" has {} entries for {} input_ids", name, mask.size(),
                             example.ids.size()));
    }
    for (std::size_t i = 0; i < mask.size(); ++i) {
        if (!mask[i]) example.labels[i] = -100;
    }
}

/// Refuses rows whose tokens see or are placed otherwise than one text's.
void check_plain_text(const RowReader& row, std::size_t count) {
    if (row.has("attention_mask")) {
        for (const bool seen : row.flags("attention_mask")) {
            if (!seen)
                row.fail(
                    "column \"attention_mask\" has a 0: rows are not padded here. Cut the padding "
                    "off.");
        }
    }
    if (!row.has("position_ids")) return;
    const std::vector<std::int32_t> positions = row.ids("position_ids", 0);
    for (std::size_t i = 0; i < std::max(count, positions.size()); ++i) {
        if (i >= positions.size() || positions[i] != static_cast<std::int32_t>(i))
            row.fail(
                "column \"position_ids\" does not count from 0: give each text a row of its own; "
                "data.packing packs them.");
    }
}

TokenExample tokenized(const RowReader& row) {
    TokenExample example;
    example.ids = row.ids("input_ids", 0);
    example.labels = row.has("labels") ? row.ids("labels", -100) : example.ids;
    if (example.labels.size() != example.ids.size()) {
        row.fail(
            fmt::format("{} labels for {} input_ids", example.labels.size(), example.ids.size()));
    }
    for (const std::int32_t label : example.labels) {
        if (label < 0 && label != -100)
            row.fail(fmt::format("a label is {}, expected a token id or -100", label));
    }
    for (const char* mask : {"completion_mask", "assistant_masks", "loss_mask"})
        apply_mask(row, mask, example);
    check_plain_text(row, example.ids.size());
    return example;
}

}  // namespace

RowFormat parse_row_format(std::string_view name) {
    std::string known;
    for (const auto& [format, text] : kNames) {
        if (name == text) return format;
        known += (known.empty() ? "" : ", ") + std::string(text);
    }
    throw UserError(ExitCode::kUsage,
                    fmt::format("data.format is \"{}\", expected one of: {}", name, known));
}

const char* name_of(RowFormat format) {
    return kNames[static_cast<std::size_t>(format)].second;
}

RowFormat detect_format(const json::object& columns, const FormatOptions& options,
                        const std::string& place) {
    const auto has = [&](const char* name) {
        const json::value* value = columns.if_contains(name);
        return value != nullptr && !value->is_null();
    };
    if (!options.prompt_template.empty()) return RowFormat::kTemplate;
    if (has("input_ids")) return RowFormat::kTokenized;
    if (has("messages")) return RowFormat::kMessages;
    const bool pair = has("chosen") && has("rejected");
    if (has("conversations")) return pair ? RowFormat::kPreference : RowFormat::kShareGpt;
    if (has("prompt") && has("completion")) return RowFormat::kPromptCompletion;
    if (has("instruction") && has("output")) return RowFormat::kInstruction;
    if (pair) return RowFormat::kPreference;
    if (has("text")) return RowFormat::kText;
    if (has("chosen") || has("rejected")) return RowFormat::kPreference;
    if (has("prompt") || has("completion")) return RowFormat::kPromptCompletion;
    if (has("instruction")) return RowFormat::kInstruction;
    throw UserError(fmt::format(
        "{}: no known columns (found: {}).\nExpected messages, prompt + completion, instruction + "
        "output, conversations, chosen + rejected, "
        "text or input_ids. Rename the columns, or set data.template and data.completion_column.",
        place, column_names(columns)));
}

namespace {

RowFormat format_of(const DataRow& row, const FormatOptions& options) {
    return options.format == RowFormat::kAuto ? detect_format(row.columns, options, row.place)
                                              : options.format;
}

Example interpret(const RowReader& row, RowFormat format, const FormatOptions& options) {
    switch (format) {
        case RowFormat::kMessages:
            return read_conversation(row, "messages");
        case RowFormat::kPromptCompletion:
            return prompt_completion(row);
        case RowFormat::kInstruction:
            return instruction(row);
        case RowFormat::kShareGpt:
            return read_conversation(row, "conversations");
        case RowFormat::kTokenized:
            return tokenized(row);
        case RowFormat::kPreference:
            return preference(row);
        case RowFormat::kTemplate:
            if (options.prompt_template.empty())
                throw UserError(ExitCode::kUsage,
                                "data.format is template, but data.template is not set");
            return PromptExample{fill_template(row, options.prompt_template),
                                 row.printable(options.completion_column)};
        case RowFormat::kText:
        case RowFormat::kAuto:
            break;
    }
    return TextExample{row.text("text")};
}

/// KTO's mark of a good or bad answer; numbers and texts in a column of this name are of other use.
void refuse_answer_label(const RowReader& row, RowFormat format) {
    const json::value* label = row.columns().if_contains("label");
    if (label == nullptr) return;
    // CSV files and Arrow write it as text or as a number.
    const bool is_verdict = label->is_bool() || *label == 0 || *label == 1 || *label == "true" ||
                            *label == "false" || *label == "True" || *label == "False";
    if (!is_verdict) return;
    if (format != RowFormat::kPromptCompletion && format != RowFormat::kMessages &&
        format != RowFormat::kShareGpt)
        return;
    row.fail(
        "column \"label\" says whether the answer is good (KTO), and bad answers are not to be "
        "learned. Keep the good rows and take the column out.");
}

}  // namespace

Example interpret_row(const DataRow& source, const FormatOptions& options, RowNotes* notes) {
    const RowReader row(source);
    const RowFormat format = format_of(source, options);
    Example example = interpret(row, format, options);
    RowNotes found;
    // A template takes any columns: those that it leaves out mean nothing else.
    if (format != RowFormat::kTemplate) {
        refuse_answer_label(row, format);
        row.find("weight");
        row.refuse_others();
    }
    row.note_others(found);
    if (notes != nullptr) notes->add(found);
    return example;
}

QuestionExample interpret_question(const DataRow& source) {
    const RowReader row(source);
    QuestionExample question;
    const bool talks = row.has("messages") || row.has("conversations");  // as detect_format()
    if (row.has("prompt") && !talks && !is_list(row, "prompt")) {
        question = {row.text("prompt"), "prompt"};
    } else if (row.has("instruction") && !talks && !has_turns(row)) {
        question = {alpaca_prompt(row), "instruction"};
    } else if (row.has("instruction") && !talks) {
        question = {read_instruction_turns(row, ""), "instruction"};
    } else {
        for (const char* name : {"messages", "conversations", "prompt"}) {
            if (question.column.empty() && row.has(name))
                question = {read_conversation(row, name), name};
        }
    }
    if (question.column.empty()) {
        row.fail(fmt::format(
            "expected a row with \"prompt\", \"messages\", \"conversations\" or \"instruction\" "
            "(found: {})",
            column_names(source.columns)));
    }
    row.refuse_others();
    auto* chat = std::get_if<ChatExample>(&question.asked);
    if (chat != nullptr && chat->messages.back().as_object().at("role") == "assistant") {
        chat->messages.pop_back();
        question.had_answer = true;
        if (chat->messages.empty())
            row.fail("the only message is the assistant's: nothing is asked");
    }
    return question;
}

double row_weight(const DataRow& source, const FormatOptions& options) {
    const RowReader row(source);
    if (!row.has("weight") || format_of(source, options) == RowFormat::kTemplate) return 1;
    const json::value weight = row.structure("weight");
    const double value = weight.is_number() ? weight.to_number<double>() : -1;
    if (!(value >= 0 && value <= 1000)) {
        row.fail(
            fmt::format("column \"weight\" (how often an epoch takes the row) is {}, expected "
                        "a number from 0 to 1000",
                        json::serialize(weight)));
    }
    return value;
}

}  // namespace qshard
