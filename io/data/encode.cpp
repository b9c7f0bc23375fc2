#include "io/data/encode.h"

#include <algorithm>

#include "base/error.h"
#include "spec/batch.h"

namespace qshard {

std::int64_t EncodedRow::supervised() const {
    if (labels.empty()) return 0;
    return std::count_if(labels.begin() + 1, labels.end(),
                         [](std::int32_t label) { return label != kIgnoreIndex; });
}

namespace {

/// [begin, end) of the last run of supervised tokens; both the end if there is none.
std::pair<std::ptrdiff_t, std::ptrdiff_t> last_run(const std::vector<std::int32_t>& labels) {
    auto end = static_cast<std::ptrdiff_t>(labels.size());
    while (end > 0 && labels[static_cast<std::size_t>(end - 1)] == kIgnoreIndex) --end;
    std::ptrdiff_t begin = end;
    while (begin > 0 && labels[static_cast<std::size_t>(begin - 1)] != kIgnoreIndex) --begin;
    return {begin, end};
}

}  // namespace

std::vector<std::int32_t> EncodedRow::prompt() const {
    return {ids.begin(), ids.begin() + last_run(labels).first};
}

std::vector<std::int32_t> EncodedRow::completion() const {
    const auto [begin, end] = last_run(labels);
    return {ids.begin() + begin, ids.begin() + end};
}

RowEncoder::RowEncoder(const TextEncoder& tokenizer, const ChatTemplate* chat,
                       EncodeOptions options)
    : tokenizer_(tokenizer), chat_(chat), options_(std::move(options)), add_bos_(false) {
    if (options_.max_length < 2) {
        throw UserError(ExitCode::kUsage, fmt::format("data.max_length is {}, expected 2 or more",
                                                      options_.max_length));
    }
    if (options_.add_bos == AddBos::kTrue && !options_.bos_id) {
        throw UserError(
            ExitCode::kUsage,
            "data.add_bos is true, but the tokenizer has no BOS token. Set it to auto or false.");
    }
    add_bos_ = options_.add_bos == AddBos::kTrue ||
               (options_.add_bos == AddBos::kAuto && starts_with_bos());
}

bool RowEncoder::starts_with_bos() const {
    if (!options_.bos_id) return false;
    const auto ids = tokenizer_.encode("a", true);
    return !ids.empty() && ids.front() == *options_.bos_id;
}

RowEncoder::Outcome RowEncoder::encode(const DataRow& row) const {
    Outcome outcome;
    const Example example = interpret_row(row, options_.format);
    try {
        if (const auto* pair = std::get_if<PreferenceExample>(&example)) {
            outcome.pair = encode_pair(*pair);
        } else {
            outcome.row = encode_example(example);
        }
    } catch (const UserError& error) {
        throw UserError(error.code(), fmt::format("{}: {}", row.place, error.what()));
    }
    bool& cut = outcome.truncated;
    if (outcome.row && !fit(*outcome.row, row.place, cut)) return {};
    if (outcome.pair &&
        !(fit(outcome.pair->chosen, row.place, cut) && fit(outcome.pair->rejected, row.place, cut)))
        return {};
    return outcome;
}

/// Cuts a document that is too long, and says so; false if it is to be skipped.
bool RowEncoder::fit(EncodedRow& made, const std::string& place, bool& truncated) const {
    made.place = place;
    const auto limit = static_cast<std::size_t>(options_.max_length);
    if (made.ids.size() <= limit) return true;
    if (options_.overlong == Overlong::kError) {
        throw UserError(
            fmt::format("{}: {} tokens, data.max_length is {}. Raise it, or set data.overlong "
                        "to truncate or skip.",
                        place, made.ids.size(), limit));
    }
    if (options_.overlong == Overlong::kSkip) return false;
    made.ids.resize(limit);
    made.labels.resize(limit);
    truncated = true;
    return true;
}

EncodedRow RowEncoder::encode_example(const Example& example) const {
    const bool all = options_.loss_on_all;
    if (const auto* text = std::get_if<TextExample>(&example)) return encode_text(*text);
    if (const auto* prompt = std::get_if<PromptExample>(&example))
        return encode_prompt(*prompt, all);
    if (const auto* tokens = std::get_if<TokenExample>(&example)) return encode_tokens(*tokens);
    return encode_chat(std::get<ChatExample>(example), all);
}

EncodedPair RowEncoder::encode_pair(const PreferenceExample& example) const {
    const auto answer = [this](const std::variant<PromptExample, ChatExample>& one) {
        if (const auto* prompt = std::get_if<PromptExample>(&one))
            return encode_prompt(*prompt, false);
        return encode_chat(std::get<ChatExample>(one), false);
    };
    return {answer(example.chosen), answer(example.rejected)};
}

EncodedRow RowEncoder::encode_text(const TextExample& example) const {
    return encode_prompt({"", example.text}, options_.loss_on_all);
}

EncodedRow RowEncoder::encode_prompt(const PromptExample& example, bool loss_on_all) const {
    EncodedRow row;
    row.ids = tokenizer_.encode(example.prompt, false);
    const std::vector<std::int32_t> completion = tokenizer_.encode(example.completion, false);
    const std::vector<std::int32_t>& first = row.ids.empty() ? completion : row.ids;
    // A text that spells its BOS out does not get a second one.
    if (add_bos_ && (first.empty() || first.front() != *options_.bos_id))
        row.ids.insert(row.ids.begin(), *options_.bos_id);
    const std::size_t prompt_count = loss_on_all ? 0 : row.ids.size();
    row.ids.insert(row.ids.end(), completion.begin(), completion.end());
    const bool has_eos = !completion.empty() && options_.eos_id == completion.back();
    if (options_.append_eos && options_.eos_id && !has_eos) row.ids.push_back(*options_.eos_id);
    row.labels = row.ids;
    std::fill_n(row.labels.begin(), prompt_count, kIgnoreIndex);
    return row;
}

EncodedRow RowEncoder::encode_tokens(const TokenExample& example) const {
    for (const auto* ids : {&example.ids, &example.labels}) {
        for (const std::int32_t id : *ids) {
            if (id >= options_.vocabulary_count) {
                throw UserError(fmt::format("token id {} is beyond the vocabulary of {}", id,
                                            options_.vocabulary_count));
            }
        }
    }
    EncodedRow row;
    row.ids = example.ids;
    row.labels = options_.loss_on_all ? example.ids : example.labels;
    return row;
}

EncodedRow RowEncoder::encode_chat(const ChatExample& example, bool loss_on_all) const {
    if (chat_ == nullptr) {
        throw UserError(
            "the row is a conversation, but the model has no chat template. Use prompt and "
            "completion columns, or a model or "
            "tokenizer with a chat template.");
    }
    const ChatTemplate::Rendered full = render(example, example.messages.size(), false);
    const std::vector<TokenSpan> tokens = tokenizer_.encode_with_offsets(full.text, false);
    EncodedRow row;
    for (const TokenSpan& token : tokens) row.ids.push_back(token.id);
    if (loss_on_all) {
        row.labels = row.ids;
        return row;
    }
    Spans spans = chat_->has_generation_blocks() ? full.generation_spans
                                                 : assistant_spans(example, full.text);
    const std::size_t first =
        example.prompt_count > 0 ? prompt_bytes(example, example.prompt_count, full.text) : 0;
    row.labels.assign(row.ids.size(), kIgnoreIndex);
    std::size_t next = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        const auto begin = static_cast<std::size_t>(tokens[i].begin),
                   end = static_cast<std::size_t>(tokens[i].end);
        while (next < spans.size() &&
               (spans[next].second <= begin || spans[next].second == spans[next].first))
            ++next;
        if (next < spans.size() && end > std::max(first, spans[next].first))
            row.labels[i] = row.ids[i];
    }
    return row;
}

ChatTemplate::Rendered RowEncoder::render(const ChatExample& example, std::size_t count,
                                          bool generation_prompt) const {
    const boost::json::array messages(example.messages.begin(), example.messages.begin() + count);
    boost::json::object variables = options_.chat_variables;
    for (const auto& variable : example.variables) variables[variable.key()] = variable.value();
    return chat_->render(messages, generation_prompt, variables);
}

namespace {

[[noreturn]] void fail_prefix(const ChatTemplate& chat, std::size_t turn) {
    throw UserError(
        fmt::format("the chat template of {} prints the conversation up to message {} differently "
                    "once more follows, so that what the assistant wrote "
                    "cannot be told apart.\nSplit the conversation so that each row ends with the "
                    "only assistant turn, set data.loss_on to all, or use a "
                    "template with {{% generation %}} blocks.",
                    chat.origin(), turn));
}

}  // namespace

std::size_t RowEncoder::prompt_bytes(const ChatExample& example, std::size_t count,
                                     const std::string& full) const {
    const std::string prompt = render(example, count, true).text;
    if (!full.starts_with(prompt)) fail_prefix(*chat_, count);
    return prompt.size();
}

std::size_t RowEncoder::turn_end(const ChatExample& example, std::size_t count,
                                 const std::string& full) const {
    if (count == example.messages.size()) return full.size();
    std::string text = render(example, count, false).text;
    if (full.starts_with(text)) return text.size();
    // Phi-3 ends every conversation with the EOS token, which is not there once more follows.
    const boost::json::value* eos = options_.chat_variables.if_contains("eos_token");
    if (eos != nullptr && eos->is_string() && text.ends_with(std::string_view(eos->get_string()))) {
        text.resize(text.size() - eos->get_string().size());
        if (full.starts_with(text)) return text.size();
    }
    if (const auto end = rewritten_turn_end(example, count, full)) return *end;
    fail_prefix(*chat_, count);
}

/// The end of turn `count` - 1 where it is printed otherwise than at the end of a conversation:
/// with a mark for its content, what follows the mark shows where the content ends, and the same at
/// the end of a conversation what belongs to the turn.
std::optional<std::size_t> RowEncoder::rewritten_turn_end(const ChatExample& example,
                                                          std::size_t count,
                                                          const std::string& full) const {
    static constexpr std::string_view kMark = "\ue000\ue001";  // of the private use area
    ChatExample marked = example;
    marked.messages[count - 1].as_object()["content"] = kMark;
    const auto after_mark = [&](std::size_t messages) -> std::optional<std::string> {
        const std::string text = render(marked, messages, false).text;
        const std::size_t at = text.find(kMark);
        if (at == std::string::npos || text.find(kMark, at + 1) != std::string::npos) return {};
        return text.substr(at + kMark.size());
    };
    const auto rest = after_mark(example.messages.size()), mine = after_mark(count);
    if (!rest || !mine || !full.ends_with(*rest) || !rest->starts_with(*mine)) return {};
    return full.size() - rest->size() + mine->size();
}

RowEncoder::Spans RowEncoder::assistant_spans(const ChatExample& example,
                                              const std::string& full) const {
    Spans spans;
    for (std::size_t turn = example.prompt_count; turn < example.messages.size(); ++turn) {
        if (example.messages[turn].as_object().at("role") != "assistant") continue;
        spans.emplace_back(prompt_bytes(example, turn, full), turn_end(example, turn + 1, full));
    }
    return spans;
}

}  // namespace qshard
