#include "io/data/format.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

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

/// One row and the errors about it.
class Row {
  public:
    explicit Row(const DataRow& row) : row_(row) {}

    [[noreturn]] void fail(const std::string& what) const {
        throw UserError(fmt::format("{}: {}", row_.place, what));
    }

    bool has(std::string_view name) const { return row_.columns.contains(name); }

    const json::value& column(std::string_view name) const {
        const json::value* value = row_.columns.if_contains(name);
        if (value == nullptr) {
            fail(fmt::format(
                "column \"{}\" is missing (found: {}). Set data.format, or rename the column.",
                name, column_names(row_.columns)));
        }
        return *value;
    }

    std::string text(std::string_view name) const {
        const json::value& value = column(name);
        if (!value.is_string())
            fail(fmt::format("column \"{}\" is not text but {}", name, to_string(value.kind())));
        return std::string(value.get_string());
    }

    /// A text, number or boolean as text, for templates.
    std::string printable(std::string_view name) const {
        const json::value& value = column(name);
        if (value.is_string()) return std::string(value.get_string());
        if (value.is_null() || value.is_array() || value.is_object()) {
            fail(fmt::format("column \"{}\" is {}: a template takes text, numbers and booleans",
                             name, to_string(value.kind())));
        }
        return json::serialize(value);
    }

    /// A list of {role, content, ...}; content may be absent where there are tool calls.
    json::array messages(std::string_view name) const {
        const json::value& value = column(name);
        if (!value.is_array() || value.get_array().empty()) {
            fail(fmt::format(
                "column \"{}\" must be a list of messages {{\"role\", \"content\"}}, not empty",
                name));
        }
        for (const json::value& message : value.get_array()) {
            const json::value* role =
                message.is_object() ? message.get_object().if_contains("role") : nullptr;
            if (role == nullptr || !role->is_string()) {
                fail(fmt::format("a message of \"{}\" has no \"role\" (found: {})", name,
                                 message.is_object() ? column_names(message.get_object())
                                                     : to_string(message.kind())));
            }
        }
        return value.get_array();
    }

    /// Columns that chat templates read beside the messages.
    json::object variables() const {
        json::object variables;
        for (const char* name : {"tools", "documents", "chat_template_kwargs"}) {
            const json::value* value = row_.columns.if_contains(name);
            if (value == nullptr || value->is_null()) continue;
            if (std::string_view(name) != "chat_template_kwargs") {
                variables[name] = *value;
            } else if (value->is_object()) {
                for (const auto& entry : value->get_object())
                    variables[entry.key()] = entry.value();
            } else {
                fail("column \"chat_template_kwargs\" must be an object");
            }
        }
        return variables;
    }

    std::vector<std::int32_t> ids(std::string_view name, std::int64_t lowest) const {
        const json::value& value = column(name);
        if (!value.is_array()) fail(fmt::format("column \"{}\" must be a list of integers", name));
        std::vector<std::int32_t> ids;
        for (const json::value& element : value.get_array()) {
            const std::int64_t* id = element.if_int64();
            if (id == nullptr || *id < lowest || *id > INT32_MAX) {
                fail(fmt::format("column \"{}\" has {}, expected integers from {} to {}", name,
                                 json::serialize(element), lowest, INT32_MAX));
            }
            ids.push_back(static_cast<std::int32_t>(*id));
        }
        return ids;
    }

  private:
    static std::string to_string(json::kind kind) { return std::string(json::to_string(kind)); }
    const DataRow& row_;
};

std::string fill_template(const Row& row, const std::string& text) {
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
PromptExample alpaca(const Row& row) {
    const std::string input = row.has("input") ? row.text("input") : std::string();
    const std::string context =
        input.empty() ? "" : ", paired with an input that provides further context";
    std::string prompt = fmt::format(
        "Below is an instruction that describes a task{}. Write a response that appropriately "
        "completes the request.\n\n"
        "### Instruction:\n{}\n\n",
        context, row.text("instruction"));
    if (!input.empty()) prompt += fmt::format("### Input:\n{}\n\n", input);
    return {prompt + "### Response:\n", row.text("output")};
}

ChatExample share_gpt(const Row& row) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kRoles{
        {{"human", "user"},
         {"user", "user"},
         {"gpt", "assistant"},
         {"assistant", "assistant"},
         {"model", "assistant"},
         {"system", "system"},
         {"tool", "tool"},
         {"observation", "tool"}}};
    const json::value& list = row.column("conversations");
    if (!list.is_array() || list.get_array().empty())
        row.fail("column \"conversations\" must be a list of {\"from\", \"value\"}, not empty");
    ChatExample example;
    for (const json::value& turn : list.get_array()) {
        const json::object* fields = turn.if_object();
        const json::value* from = fields != nullptr ? fields->if_contains("from") : nullptr;
        const json::value* value = fields != nullptr ? fields->if_contains("value") : nullptr;
        if (from == nullptr || value == nullptr || !from->is_string() || !value->is_string()) {
            row.fail(
                fmt::format("a turn of \"conversations\" needs \"from\" and \"value\" (found: {})",
                            fields != nullptr ? column_names(*fields) : "no object"));
        }
        const std::string_view name = from->get_string();
        const auto* role = std::find_if(kRoles.begin(), kRoles.end(),
                                        [&](const auto& one) { return one.first == name; });
        if (role == kRoles.end())
            row.fail(
                fmt::format("a turn is from \"{}\", expected human, gpt, system or tool", name));
        example.messages.push_back(
            json::object{{"role", role->second}, {"content", value->get_string()}});
    }
    example.variables = row.variables();
    return example;
}

ChatExample conversation(const Row& row, json::array prompt, const json::array& completion) {
    ChatExample example{std::move(prompt), 0, row.variables()};
    example.prompt_count = example.messages.size();
    example.messages.insert(example.messages.end(), completion.begin(), completion.end());
    return example;
}

Example prompt_completion(const Row& row) {
    if (!row.column("prompt").is_array() && !row.column("completion").is_array()) {
        return PromptExample{row.text("prompt"), row.text("completion")};
    }
    return conversation(row, row.messages("prompt"), row.messages("completion"));
}

/// Where the prompt that two answers begin with ends, as TRL's extract_prompt cuts it: where they
/// first differ, at the latest before the last element of the shorter.
template <class Sequence>
std::size_t shared_count(const Sequence& a, const Sequence& b) {
    const std::size_t most = std::min(a.size(), b.size());
    std::size_t count = 0;
    while (count + 1 < most && a[count] == b[count]) ++count;
    return count;
}

PreferenceExample implicit_texts(const Row& row) {
    const std::string chosen = row.text("chosen"), rejected = row.text("rejected");
    std::size_t end = shared_count(chosen, rejected);
    // Never inside of a character; and a space before the answers belongs to them.
    while (end > 0 && (static_cast<unsigned char>(chosen[end]) & 0xC0U) == 0x80U) --end;
    if (end > 0 && chosen[end - 1] == ' ') --end;
    return {PromptExample{chosen.substr(0, end), chosen.substr(end)},
            PromptExample{rejected.substr(0, end), rejected.substr(end)}};
}

PreferenceExample implicit_messages(const Row& row) {
    const json::array chosen = row.messages("chosen"), rejected = row.messages("rejected");
    const auto shared = static_cast<std::ptrdiff_t>(shared_count(chosen, rejected));
    if (shared == 0) {
        row.fail(
            "columns \"chosen\" and \"rejected\" do not begin with the same message, so that there "
            "is no prompt. Begin both with it, or write it to a column \"prompt\".");
    }
    const json::array prompt(chosen.begin(), chosen.begin() + shared);
    return {conversation(row, prompt, json::array(chosen.begin() + shared, chosen.end())),
            conversation(row, prompt, json::array(rejected.begin() + shared, rejected.end()))};
}

/// TRL's preference format. Beside conversations a prompt that is a text (as in
/// ultrafeedback_binarized) repeats what they begin with.
PreferenceExample preference(const Row& row) {
    const bool messages = row.column("chosen").is_array();
    if (row.column("rejected").is_array() != messages)
        row.fail("columns \"chosen\" and \"rejected\" must both be texts, or both be messages");
    const bool explicit_prompt = row.has("prompt") && row.column("prompt").is_array() == messages;
    if (!explicit_prompt && row.has("prompt") && !messages)
        row.fail("column \"prompt\" must be a text, as \"chosen\" and \"rejected\" are");
    if (!explicit_prompt) return messages ? implicit_messages(row) : implicit_texts(row);
    if (messages) {
        const json::array prompt = row.messages("prompt");
        return {conversation(row, prompt, row.messages("chosen")),
                conversation(row, prompt, row.messages("rejected"))};
    }
    return {PromptExample{row.text("prompt"), row.text("chosen")},
            PromptExample{row.text("prompt"), row.text("rejected")}};
}

TokenExample tokenized(const Row& row) {
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
    const auto has = [&](const char* name) { return columns.contains(name); };
    if (!options.prompt_template.empty()) return RowFormat::kTemplate;
    if (has("input_ids")) return RowFormat::kTokenized;
    if (has("messages")) return RowFormat::kMessages;
    if (has("conversations")) return RowFormat::kShareGpt;
    if (has("prompt") && has("completion")) return RowFormat::kPromptCompletion;
    if (has("instruction") && has("output")) return RowFormat::kInstruction;
    if (has("chosen") && has("rejected")) return RowFormat::kPreference;
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

Example interpret_row(const DataRow& source, const FormatOptions& options) {
    const Row row(source);
    const RowFormat format = options.format == RowFormat::kAuto
                                 ? detect_format(source.columns, options, source.place)
                                 : options.format;
    switch (format) {
        case RowFormat::kMessages:
            return ChatExample{row.messages("messages"), 0, row.variables()};
        case RowFormat::kPromptCompletion:
            return prompt_completion(row);
        case RowFormat::kInstruction:
            return alpaca(row);
        case RowFormat::kShareGpt:
            return share_gpt(row);
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

}  // namespace qshard
