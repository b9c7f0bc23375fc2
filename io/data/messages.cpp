#include "io/data/messages.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace json = boost::json;

constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kShareGptRoles{
    {{"human", "user"},
     {"user", "user"},
     {"gpt", "assistant"},
     {"assistant", "assistant"},
     {"model", "assistant"},
     {"function_call", "assistant"},
     {"system", "system"},
     {"developer", "developer"},
     {"tool", "tool"},
     {"function", "tool"},
     {"function_response", "tool"},
     {"observation", "tool"}}};

/// Arguments of template functions in transformers, which the template itself never sees.
constexpr std::array<std::string_view, 12> kNoVariables{"chat_template",
                                                        "add_generation_prompt",
                                                        "continue_final_message",
                                                        "conversation",
                                                        "messages",
                                                        "tokenize",
                                                        "padding",
                                                        "truncation",
                                                        "max_length",
                                                        "return_tensors",
                                                        "return_dict",
                                                        "return_assistant_tokens_mask"};

/// One message of a column, for messages to people.
struct Turn {
    const RowReader& row;
    std::string_view column;
    std::size_t index;
    [[noreturn]] void fail(const std::string& what) const {
        row.fail(fmt::format("message {} of \"{}\": {}", index + 1, column, what));
    }
};

/// What JSON text says; nothing if it is none.
std::optional<json::value> parsed(std::string_view text) {
    try {
        return parse_strict_json(text, "text", {.bytes = std::size_t{16} << 20});
    } catch (const UserError&) {
        return std::nullopt;
    }
}

/// Arguments of a call as an object; "" is an empty one.
json::value read_arguments(const Turn& turn, const json::value& arguments) {
    const auto* text = arguments.if_string();
    if (text == nullptr) return arguments;
    if (text->empty()) return json::object();
    std::optional<json::value> object = parsed(*text);
    if (!object || !object->is_object()) {
        turn.fail(
            fmt::format("\"arguments\" of a tool call must be an object or JSON text of one, "
                        "found {}",
                        json::serialize(std::string_view(*text).substr(0, 60))));
    }
    return *object;
}

json::value read_call(const Turn& turn, const json::value& value) {
    if (!value.is_object()) turn.fail("a tool call is no object {\"function\": {...}}");
    json::object call = value.get_object();
    json::value* function = call.if_contains("function");
    json::object* target =
        function != nullptr && function->is_object() ? &function->get_object() : &call;
    if (json::value* arguments = target->if_contains("arguments"))
        *arguments = read_arguments(turn, *arguments);
    return call;
}

json::value read_calls(const Turn& turn, const json::value& value) {
    json::value list = value;
    if (const auto* text = value.if_string()) list = parsed(*text).value_or(nullptr);
    if (!list.is_array()) turn.fail("\"tool_calls\" must be a list or JSON text of one");
    for (json::value& call : list.get_array()) call = read_call(turn, call);
    return list;
}

/// Calls that are a turn of their own: an object {name, arguments}, a list, or JSON text of them.
json::array calls_of_turn(const Turn& turn, const json::value& value) {
    json::value calls = value;
    if (const auto* text = value.if_string()) calls = parsed(*text).value_or(nullptr);
    if (calls.is_object()) calls = json::array{calls};
    if (!calls.is_array() || calls.get_array().empty())
        turn.fail("a function_call must be {\"name\", \"arguments\"} or JSON text of it");
    json::array made;
    for (const json::value& call : calls.get_array()) {
        if (!call.is_object() || !call.get_object().contains("name"))
            turn.fail("a function_call has no \"name\"");
        made.push_back(
            read_call(turn, json::object{{"type", "function"}, {"function", call.get_object()}}));
    }
    return made;
}

/// Takes what a message says of its loss out of it.
TurnLoss take_loss(const Turn& turn, json::object& message) {
    TurnLoss loss = TurnLoss::kAsItsRole;
    for (const std::string_view name : {"weight", "train", "training", "loss"}) {
        const json::value* found = message.if_contains(name);
        if (found == nullptr) continue;
        const json::value value = *found;
        message.erase(name);
        if (value.is_null()) continue;
        if (value == 0 || value == 0.0 || value == false) {
            loss = TurnLoss::kNone;
        } else if (value != 1 && value != 1.0 && value != true) {
            turn.fail(
                fmt::format("\"{}\" is {}, expected 0 or 1: a turn has loss or has none. For "
                            "rows that count more give the row a \"weight\".",
                            name, json::serialize(value)));
        } else if (name != "weight" && loss != TurnLoss::kNone) {
            loss = TurnLoss::kWanted;
        }
    }
    return loss;
}

void refuse_keys(const Turn& turn, const json::object& message) {
    for (const auto& member : message) {
        const KnownKey* known = find_key(known_message_keys(), member.key());
        if (known != nullptr && known->use == KeyUse::kRefused && !is_empty(member.value()))
            turn.fail(fmt::format("\"{}\": {}", known->name, known->meaning));
    }
}

/// Refuses parts that are no text (images and the like), and lists that are none of parts.
void check_parts(const Turn& turn, const json::value& content) {
    if (!content.is_array()) return;
    for (const json::value& part : content.get_array()) {
        const json::value* type =
            part.is_object() ? part.get_object().if_contains("type") : nullptr;
        const json::value* text =
            part.is_object() ? part.get_object().if_contains("text") : nullptr;
        if (type != nullptr && type->is_string() && type->get_string() != "text") {
            const std::string_view name = type->get_string();
            turn.fail(fmt::format("\"content\" has a part of type \"{}\": {}", name,
                                  name == "thinking" || name == "reasoning"
                                      ? "write it as the message's \"reasoning_content\""
                                  : name == "input_text" || name == "output_text"
                                      ? "expected type \"text\""
                                      : "models are trained on text alone. Take these rows out."));
        }
        for (const char* other : {"image", "image_url", "audio", "video", "input_audio"}) {
            const json::value* more =
                part.is_object() ? part.get_object().if_contains(other) : nullptr;
            if (more == nullptr || is_empty(*more)) continue;
            turn.fail(
                fmt::format("\"content\" has a part with \"{}\": models are trained on text "
                            "alone. Take these rows out.",
                            other));
        }
        if (type == nullptr || !type->is_string() || text == nullptr || !text->is_string()) {
            turn.fail(
                "\"content\" is a list, but not of parts {\"type\": \"text\", \"text\": ...}");
        }
    }
}

/// {role, content, ...} of ShareGPT's {from, value, ...}; the other members stay.
json::object from_share_gpt(const Turn& turn, const json::object& fields) {
    const json::value* from = fields.if_contains("from");
    const json::value* value = fields.if_contains("value");
    if (from == nullptr || value == nullptr || !from->is_string() || value->is_null()) {
        turn.row.fail(fmt::format("a turn of \"{}\" needs \"from\" and \"value\" (found: {}{})",
                                  turn.column, column_names(fields),
                                  value != nullptr && value->is_null() ? "; value is null" : ""));
    }
    const std::string_view name = from->get_string();
    const auto* role = std::find_if(kShareGptRoles.begin(), kShareGptRoles.end(),
                                    [&](const auto& one) { return one.first == name; });
    if (role == kShareGptRoles.end()) {
        turn.fail(fmt::format(
            "a turn is from \"{}\", expected human, gpt, system, function_call or observation",
            name));
    }
    json::object message{{"role", role->second}};
    if (name == "function_call") {
        message["content"] = nullptr;
        message["tool_calls"] = calls_of_turn(turn, *value);
    } else {
        message["content"] = *value;
    }
    for (const auto& member : fields) {
        if (member.key() != "from" && member.key() != "value")
            message[member.key()] = member.value();
    }
    return message;
}

json::object from_messages(const Turn& turn, const json::value& value) {
    const json::value* role = value.is_object() ? value.get_object().if_contains("role") : nullptr;
    if (role == nullptr || !role->is_string()) {
        turn.row.fail(fmt::format("a message of \"{}\" has no \"role\" (found: {})", turn.column,
                                  value.is_object() ? column_names(value.get_object())
                                                    : std::string(json::to_string(value.kind()))));
    }
    json::object message = value.get_object();
    if (const json::value* call = message.if_contains("function_call");
        call != nullptr && !call->is_null()) {
        if (const json::value* calls = message.if_contains("tool_calls");
            calls && !is_empty(*calls))
            turn.fail("has \"function_call\" and \"tool_calls\"; keep one of them");
        message["tool_calls"] = calls_of_turn(turn, *call);
    }
    message.erase("function_call");
    if (message["role"] == "function") message["role"] = "tool";
    return message;
}

/// One list of turns, of one shape whatever the row's.
void append_turns(ChatExample& example, const RowReader& row, std::string_view column,
                  const json::value& value) {
    json::value list = value;
    if (const auto* text = value.if_string()) list = parsed(*text).value_or(nullptr);
    // LLaMA-Factory's chosen and rejected are one turn.
    if (list.is_object()) list = json::array{list};
    if (!list.is_array() || list.get_array().empty()) {
        row.fail(fmt::format(
            "column \"{}\" must be a list of messages {}, not empty", column,
            column == "conversations" ? "{\"from\", \"value\"}" : "{\"role\", \"content\"}"));
    }
    for (const json::value& element : list.get_array()) {
        const Turn turn{row, column, example.messages.size()};
        const json::object* fields = element.if_object();
        const bool has_role = fields != nullptr && fields->contains("role");
        const bool share_gpt = fields != nullptr && !has_role &&
                               (fields->contains("from") || column == "conversations");
        json::object message =
            share_gpt ? from_share_gpt(turn, *fields) : from_messages(turn, element);
        refuse_keys(turn, message);
        if (const json::value* content = message.if_contains("content"))
            check_parts(turn, *content);
        if (json::value* calls = message.if_contains("tool_calls"); calls && !calls->is_null())
            *calls = read_calls(turn, *calls);
        example.loss.push_back(take_loss(turn, message));
        example.messages.push_back(std::move(message));
    }
}

/// Objects for the template; transformers refuses other lists, too.
json::array read_objects(const RowReader& row, std::string_view name) {
    json::value list = row.structure(name);
    const bool good =
        list.is_array() && std::all_of(list.get_array().begin(), list.get_array().end(),
                                       [](const auto& one) { return one.is_object(); });
    if (!good)
        row.fail(fmt::format("column \"{}\" must be a list of objects, or JSON text of one", name));
    return std::move(list.get_array());
}

/// What chat templates read beside the messages.
json::object read_variables(const RowReader& row) {
    json::object variables;
    for (const std::string_view name : {"tools", "documents"}) {
        const json::value* value = row.find(name);
        // LLaMA-Factory writes "" where a row has no tools.
        if (value == nullptr || *value == "" || *value == "null") continue;
        variables[name] = read_objects(row, name);
    }
    if (const json::value* value = row.find("functions"); value != nullptr && !is_empty(*value)) {
        if (variables.contains("tools")) row.fail("has columns \"functions\" and \"tools\"");
        json::array tools;
        for (const json::value& function : read_objects(row, "functions"))
            tools.push_back(json::object{{"type", "function"}, {"function", function}});
        variables["tools"] = std::move(tools);
    }
    if (!row.has("chat_template_kwargs")) return variables;
    const json::value given = row.structure("chat_template_kwargs");
    if (!given.is_object()) row.fail("column \"chat_template_kwargs\" must be an object");
    for (const auto& entry : given.get_object()) {
        if (std::find(kNoVariables.begin(), kNoVariables.end(), entry.key()) !=
            kNoVariables.end()) {
            row.fail(
                fmt::format("column \"chat_template_kwargs\" has \"{}\", which is no variable "
                            "of a template. Take it out.",
                            std::string_view(entry.key())));
        }
        variables[entry.key()] = entry.value();
    }
    return variables;
}

void prepend_system(const RowReader& row, ChatExample& example) {
    const json::value* system = row.find("system");
    if (system == nullptr || is_empty(*system)) return;
    const std::string text = row.text("system");
    const json::value& first = example.messages.front().as_object().at("role");
    if (first == "system" || first == "developer")
        row.fail("has a column \"system\" and a message of the system; keep one of them");
    example.messages.insert(example.messages.begin(),
                            json::object{{"role", "system"}, {"content", text}});
    example.loss.insert(example.loss.begin(), TurnLoss::kAsItsRole);
    if (example.prompt_count > 0) ++example.prompt_count;
}

}  // namespace

ChatExample read_conversation(const RowReader& row, std::string_view column) {
    ChatExample example;
    append_turns(example, row, column, row.column(column));
    if (row.has("loss_mask")) {
        const std::vector<bool> mask = row.flags("loss_mask");
        if (mask.size() != example.messages.size()) {
            row.fail(fmt::format("column \"loss_mask\" has {} entries for {} messages", mask.size(),
                                 example.messages.size()));
        }
        for (std::size_t i = 0; i < mask.size(); ++i) {
            if (!mask[i]) example.loss[i] = TurnLoss::kNone;
            if (mask[i] && example.loss[i] == TurnLoss::kAsItsRole)
                example.loss[i] = TurnLoss::kWanted;
        }
    }
    example.variables = read_variables(row);
    prepend_system(row, example);
    return example;
}

ChatExample read_answer(const RowReader& row, std::string_view prompt, std::string_view answer) {
    ChatExample example;
    append_turns(example, row, prompt, row.column(prompt));
    example.prompt_count = example.messages.size();
    append_turns(example, row, answer, row.column(answer));
    example.variables = read_variables(row);
    prepend_system(row, example);
    return example;
}

PreferenceExample read_answers_that_share(const RowReader& row) {
    ChatExample chosen, rejected;
    append_turns(chosen, row, "chosen", row.column("chosen"));
    append_turns(rejected, row, "rejected", row.column("rejected"));
    // Where they first differ, at the latest before the last turn of the shorter, as TRL cuts.
    const std::size_t most = std::min(chosen.messages.size(), rejected.messages.size());
    std::size_t shared = 0;
    while (shared + 1 < most && chosen.messages[shared] == rejected.messages[shared]) ++shared;
    if (shared == 0) {
        row.fail(
            "columns \"chosen\" and \"rejected\" do not begin with the same message, so that there "
            "is no prompt. Begin both with it, or write it to a column \"prompt\".");
    }
    for (ChatExample* one : {&chosen, &rejected}) {
        one->prompt_count = shared;
        one->variables = read_variables(row);
        prepend_system(row, *one);
    }
    return {std::move(chosen), std::move(rejected)};
}

ChatExample read_instruction_turns(const RowReader& row, std::string_view answer) {
    ChatExample example;
    const auto add = [&](const char* role, std::string text) {
        example.messages.push_back(json::object{{"role", role}, {"content", std::move(text)}});
        example.loss.push_back(TurnLoss::kAsItsRole);
    };
    if (const json::value* history = row.find("history"); history && !is_empty(*history)) {
        const json::value pairs = row.structure("history");
        for (const json::value& pair :
             pairs.is_array() ? pairs.get_array() : json::array{nullptr}) {
            const auto* two = pair.if_array();
            if (two == nullptr || two->size() != 2 || !(*two)[0].is_string() ||
                !(*two)[1].is_string())
                row.fail("column \"history\" must be a list of pairs [user's text, answer]");
            add("user", std::string((*two)[0].get_string()));
            add("assistant", std::string((*two)[1].get_string()));
        }
    }
    std::string task = row.text("instruction");
    if (const json::value* input = row.find("input"); input && !is_empty(*input))
        task += "\n" + row.text("input");
    add("user", std::move(task));
    if (!answer.empty()) add("assistant", row.text(answer));
    example.variables = read_variables(row);
    prepend_system(row, example);
    return example;
}

}  // namespace qshard
