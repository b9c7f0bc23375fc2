#include "main/special_tokens.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <span>

#include "io/data/token_range.h"
#include "spec/json.h"

namespace qshard {
namespace {

constexpr std::size_t kConfigBytes = std::size_t{16} << 20;

boost::json::object object_of(const ModelText& file) {
    boost::json::value root = parse_strict_json(
        file.text, file.origin, {.bytes = kConfigBytes, .depth = 32, .non_finite = true});
    if (!root.is_object()) throw UserError(fmt::format("{}: expected a JSON object", file.origin));
    return std::move(root.get_object());
}

/// A special token as the files give it: its text, or an object with it. Empty: none, in so many
/// words; nothing: the files do not say.
std::optional<std::string> special_token(const boost::json::object& config, const char* key) {
    const boost::json::value* value = config.if_contains(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* object = value->if_object()) value = object->if_contains("content");
    if (value == nullptr || !value->is_string()) return "";
    return std::string(value->get_string());
}

/// tokenizer_config.json with what special_tokens_map.json says instead, which transformers reads
/// where the former has no added_tokens_decoder.
boost::json::object read_config(const ModelSource& source) {
    boost::json::object config;
    if (source.tokenizer_config) config = object_of(*source.tokenizer_config);
    if (!source.special_tokens_map || config.contains("added_tokens_decoder")) return config;
    const boost::json::object map = object_of(*source.special_tokens_map);
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
        if (const boost::json::value* value = map.if_contains(key)) config[key] = *value;
    }
    return config;
}

std::string token_text(const TextModel& model, const std::optional<std::int32_t>& id) {
    return id ? model.tokenizer->id_to_token(*id) : "";
}

/// bos or eos: `id` is what the model's own configuration says.
void take_token(const boost::json::object& config, const char* key, TextModel& model,
                std::optional<std::int32_t>& id) {
    const std::optional<std::string> text = special_token(config, key);
    if (text && !text->empty()) {
        const std::optional<std::int32_t> found = model.tokenizer->token_to_id(*text);
        if (found) {
            id = found;
        } else {
            model.notes.push_back(fmt::format(
                "{}: its {} \"{}\" is no token of the tokenizer; {}", model.source.path.string(),
                key, *text,
                id ? fmt::format("the model's configuration names \"{}\" ({}), which is taken",
                                 token_text(model, id), *id)
                   : "none is used"));
        }
    }
    const bool none = text && text->empty();
    if (!none && id) model.chat_variables[key] = token_text(model, id);
}

/// Whether texts begin with a special token by the tokenizer's own rules, and with which.
void read_begin(const boost::json::object& config, TextModel& model) {
    const std::vector<std::int32_t> ids = model.tokenizer->encode("a", true);
    const bool begins = ids.size() > 1 && model.tokenizer->is_special(ids.front());
    if (begins && !model.bos) model.bos = ids.front();
    model.add_bos = begins && ids.front() == *model.bos;
    const boost::json::value* add = config.if_contains("add_bos_token");
    if (add == nullptr || !add->is_bool()) return;
    model.add_bos = add->get_bool() && model.bos;
    if (add->get_bool() && !model.bos) {
        model.notes.push_back(
            fmt::format("{}: its add_bos_token is true, but no bos_token is known: texts begin "
                        "without one",
                        model.source.path.string()));
    }
}

void refuse_beyond(const TextModel& model, const char* key, std::optional<std::int32_t> id) {
    if (!id || *id < model.config().vocabulary) return;
    throw UserError(
        fmt::format("{}: the {} of its tokenizer, {}", model.source.path.string(), key,
                    beyond_embedding(*id, token_text(model, id), model.config().vocabulary)));
}

/// Tokens that only the tokenizer has are harmless until one occurs.
void note_beyond(TextModel& model) {
    const std::int64_t rows = model.config().vocabulary;
    std::vector<std::string> tokens;
    for (std::int64_t id = rows; id < model.tokenizer->vocabulary_count(); ++id) {
        const std::string text = model.tokenizer->id_to_token(static_cast<std::int32_t>(id));
        if (!text.empty()) tokens.push_back(fmt::format("\"{}\" ({})", text, id));
    }
    if (tokens.empty()) return;
    const std::size_t shown = std::min<std::size_t>(tokens.size(), 3);
    model.notes.push_back(fmt::format(
        "{}: the tokenizer has {} token{} beyond the embedding's {} rows: {}{}; texts with {} are "
        "refused",
        model.source.path.string(), tokens.size(), tokens.size() == 1 ? "" : "s", rows,
        fmt::join(std::span(tokens).first(shown), ", "), shown < tokens.size() ? ", ..." : "",
        tokens.size() == 1 ? "it" : "them"));
}

/// Tokens that transformers would add to the tokenizer when it opens the folder.
void note_undeclared(const boost::json::object& config, TextModel& model) {
    std::vector<std::string> tokens;
    const auto look = [&](const boost::json::value& token, std::optional<std::int32_t> id) {
        const auto* object = token.if_object();
        const boost::json::value* text =
            object != nullptr ? object->if_contains("content") : &token;
        if (text == nullptr || !text->is_string() || text->get_string().empty()) return;
        const std::string word(text->get_string());
        const std::optional<std::int32_t> known = model.tokenizer->token_to_id(word);
        if (!known || (id && *known != *id)) tokens.push_back(fmt::format("\"{}\"", word));
    };
    if (const auto* added = config.if_contains("added_tokens_decoder");
        added && added->is_object()) {
        for (const auto& entry : added->get_object()) {
            std::int32_t id = 0;
            const std::string_view digits = entry.key();
            const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), id);
            if (end.ec == std::errc()) look(entry.value(), id);
        }
    }
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
        const auto* list = config.if_contains(key);
        if (list == nullptr || !list->is_array()) continue;
        for (const auto& token : list->get_array()) look(token, {});
    }
    if (tokens.empty()) return;
    const std::size_t shown = std::min<std::size_t>(tokens.size(), 3);
    model.notes.push_back(fmt::format(
        "{}: tokenizer_config.json declares tokens that tokenizer.json has not, or has with other "
        "ids: {}{}; they are not used, and transformers would use them. Save the tokenizer anew "
        "with transformers to have them",
        model.source.path.string(), fmt::join(std::span(tokens).first(shown), ", "),
        shown < tokens.size() ? ", ..." : ""));
}

}  // namespace

void resolve_special_tokens(TextModel& model) {
    const boost::json::object config = read_config(model.source);
    take_token(config, "bos_token", model, model.bos);
    take_token(config, "eos_token", model, model.eos);
    for (const char* key : {"unk_token", "pad_token"}) {
        if (const auto text = special_token(config, key); text && !text->empty())
            model.chat_variables[key] = *text;
    }
    read_begin(config, model);
    refuse_beyond(model, "bos_token", model.bos);
    refuse_beyond(model, "eos_token", model.eos);
    note_beyond(model);
    note_undeclared(config, model);
}

}  // namespace qshard
