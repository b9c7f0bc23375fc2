#include "io/data/conversation.h"

#include <array>
#include <set>
#include <utility>

#include "base/error.h"
#include "io/chat/value.h"

namespace qshard {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 3> kReasoning{"reasoning_content", "thinking", "reasoning"};
/// Of the private use area: no text has it, no template changes it.
constexpr std::string_view kMark = "\ue000\ue001";

bool is_list(const json::object& message, std::string_view name) {
    const json::value* value = message.if_contains(name);
    return value != nullptr && value->is_array();
}

/// {"thinking": reasoning, ..., "reasoning_content": reasoning}, as transformers gives them.
void alias_reasoning(json::object& message) {
    for (const std::string_view name : kReasoning) {
        const json::value* found = message.if_contains(name);
        if (found == nullptr) continue;
        const json::value reasoning = *found;
        if (!message.contains("thinking")) message["thinking"] = reasoning;
        message["reasoning_content"] = reasoning;
        return;
    }
}

/// JSON as Python writes it, which templates print where they want text.
std::string python_text(const json::value& value) {
    return jinja::to_json(jinja::Value::from_json(value), {});
}

void arguments_as_text(json::object& message) {
    if (!is_list(message, "tool_calls")) return;
    for (json::value& call : message["tool_calls"].get_array()) {
        json::object* target = call.if_object();
        if (target == nullptr) continue;
        if (json::value* function = target->if_contains("function");
            function != nullptr && function->is_object())
            target = &function->get_object();
        if (json::value* arguments = target->if_contains("arguments");
            arguments != nullptr && !arguments->is_string())
            *arguments = python_text(*arguments);
    }
}

std::string joined(const json::array& parts) {
    std::string text;
    for (const json::value& part : parts) text += part.as_object().at("text").as_string();
    return text;
}

/// What a message's content is, for messages to people.
std::string describe_content(const json::object& message) {
    const json::value* content = message.if_contains("content");
    if (content == nullptr) return "it has no content";
    if (content->is_null()) return "its content is null";
    if (content->is_array()) return "its content is a list";
    if (content->is_object()) return "its content is an object";
    if (content->is_bool()) return "its content is true or false";
    if (content->is_number()) return "its content is a number";
    return "its content is a text";
}

}  // namespace

/// The forms of a conversation that templates differ in.
struct Conversation::Form {
    bool text_arguments = false;  ///< DeepSeek's templates add them to text
    bool null_content = false;    ///< older ones ask whether the content is none
};

Conversation::Conversation(const ChatTemplate& chat, const ChatExample& example,
                           const json::object& variables)
    : given_(example.messages), variables_(variables) {
    for (const auto& entry : example.variables) variables_[entry.key()] = entry.value();
    for (const std::string_view name : {"tools", "documents"}) {
        if (!variables_.contains(name)) variables_[name] = nullptr;
    }
    chat_ = &chat.chosen(!variables_.at("tools").is_null());
    choose_form();
    join_parts();
    map_developer();
}

std::string_view Conversation::role(std::size_t message) const {
    return given_[message].as_object().at("role").as_string();
}

void Conversation::take_form(const Form& form) {
    messages_.clear();
    for (const json::value& given : given_) {
        json::object message;
        for (const auto& member : given.as_object()) {
            const bool kept = form.null_content && member.key() == "content" &&
                              is_list(given.as_object(), "tool_calls");
            if (!member.value().is_null() || kept) message[member.key()] = member.value();
        }
        alias_reasoning(message);
        if (form.text_arguments) arguments_as_text(message);
        messages_.push_back(std::move(message));
    }
}

/// Takes the first form that the template can print, for conversations with calls; others have one.
void Conversation::choose_form() {
    take_form({});
    bool calls = false;
    for (const json::value& message : messages_)
        calls = calls || is_list(message.as_object(), "tool_calls");
    if (!calls) return;
    // A template that asks nothing of it would print the null as a word.
    const bool asks_for_null = chat_->mentions("is none") || chat_->mentions("is not none");
    for (const Form& form : {Form{}, Form{true, false}, Form{false, true}, Form{true, true}}) {
        if (form.null_content && !asks_for_null) continue;
        take_form(form);
        try {
            render_messages(messages_, messages_.size(), false);
            return;
        } catch (const UserError&) {  // another form, or none: then the first one's error is told
        }
    }
    take_form({});
}

/// Whether a content with `mark` in it comes out as text, and not as Python or JSON writes a list.
bool Conversation::prints(std::size_t message, const json::value& content,
                          std::string_view mark) const {
    json::array probe = messages_;
    probe[message].as_object()["content"] = content;
    try {
        const std::string text = render_messages(probe, probe.size(), false).text;
        const std::size_t at = text.find(mark);
        return at != std::string::npos &&
               (at == 0 || (text[at - 1] != '\'' && text[at - 1] != '"'));
    } catch (const UserError&) {
        return false;
    }
}

void Conversation::join_parts() {
    bool parts = false;
    for (const json::value& message : messages_)
        parts = parts || is_list(message.as_object(), "content");
    if (!parts) return;
    json::array taken = messages_;
    // Each is tried beside messages of text, so that one which cannot be printed spoils no other.
    for (json::value& message : messages_) {
        if (is_list(message.as_object(), "content"))
            message.as_object()["content"] = joined(message.as_object()["content"].get_array());
    }
    for (std::size_t i = 0; i < messages_.size(); ++i) {
        if (!is_list(taken[i].as_object(), "content")) continue;
        const json::array probe{json::object{{"type", "text"}, {"text", kMark}}};
        if (!prints(i, probe, kMark)) taken[i].as_object()["content"] = messages_[i].at("content");
    }
    messages_ = std::move(taken);
}

/// OpenAI's newer name of the system, which many templates do not know and leave out.
void Conversation::map_developer() {
    for (std::size_t i = 0; i < messages_.size(); ++i) {
        json::object& message = messages_[i].as_object();
        if (message.at("role") == "developer" && !prints(i, json::string(kMark), kMark))
            message["role"] = "system";
    }
}

ChatTemplate::Rendered Conversation::render_messages(const json::array& messages, std::size_t count,
                                                     bool generation_prompt) const {
    const json::array first(messages.begin(),
                            messages.begin() + static_cast<std::ptrdiff_t>(count));
    return chat_->render(first, generation_prompt, variables_);
}

ChatTemplate::Rendered Conversation::render(std::size_t count, bool generation_prompt) const {
    try {
        return render_messages(messages_, count, generation_prompt);
    } catch (const UserError& error) {
        throw UserError(error.code(), blame(error.what()));
    }
}

std::string Conversation::render_with(std::size_t message, std::string_view content,
                                      std::size_t count) const {
    json::array changed = messages_;
    changed[message].as_object()["content"] = content;
    return render_messages(changed, count, false).text;
}

/// Adds which message the template fails at: the last of the shortest beginning that fails alike.
std::string Conversation::blame(const std::string& what) const {
    for (std::size_t count = 1; count <= messages_.size(); ++count) {
        try {
            render_messages(messages_, count, false);
        } catch (const UserError& error) {
            if (error.what() != what) continue;
            return fmt::format("{} (message {}, {}: {})", what, count, role(count - 1),
                               describe_content(given_[count - 1].as_object()));
        }
    }
    return what;
}

void Conversation::note_lost_calls(RowNotes& notes) const {
    if (chat_->mentions("tool_calls")) return;
    for (const json::value& given : given_) {
        const json::value* content = given.as_object().if_contains("content");
        const json::value* calls = given.as_object().if_contains("tool_calls");
        if (calls == nullptr || is_empty(*calls) || (content != nullptr && !is_empty(*content)))
            continue;
        ++notes.remarks
              ["turns of tool_calls alone, which the chat template does not print: they "
               "are learnt as empty answers"];
        return;
    }
}

void Conversation::note_unread(RowNotes& notes) const {
    note_lost_calls(notes);
    std::set<std::string_view> unread;
    for (const json::value& message : given_) {
        for (const auto& member : message.as_object()) {
            const std::string_view key = member.key();
            if (is_empty(member.value()) || key == "role" || key == "content") continue;
            const bool reasoning =
                key == "reasoning_content" || key == "reasoning" || key == "thinking";
            const bool read =
                reasoning ? chat_->mentions("reasoning_content") || chat_->mentions("thinking")
                          : chat_->mentions(key);
            if (!read) unread.insert(key);
        }
    }
    for (const std::string_view key : unread) ++notes.unread["messages." + std::string(key)];
    for (const auto& entry : variables_) {
        const std::string_view key = entry.key();
        if (!is_empty(entry.value()) && !key.ends_with("_token") && !chat_->mentions(key))
            ++notes.unread[std::string(key)];
    }
}

}  // namespace qshard
