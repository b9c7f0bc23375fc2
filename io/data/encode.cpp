#include "io/data/encode.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "io/data/token_range.h"
#include "io/data/turns.h"
#include "spec/batch.h"

namespace qshard {

std::int64_t EncodedRow::supervised() const {
    if (labels.empty()) return 0;
    return std::count_if(labels.begin() + 1, labels.end(),
                         [](std::int32_t label) { return label != kIgnoreIndex; });
}

namespace {

constexpr const char* kWeightRemark =
    "rows with a weight of their own: an epoch takes them as often";
constexpr const char* kPromptRemark =
    "the chat template's generation prompt opens what these rows' turns are printed without, such "
    "as reasoning: loss begins where the two part, and answers will begin otherwise than trained";

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
    outcome.weight = row_weight(row, options_.format);
    const Example example = interpret_row(row, options_.format, &outcome.notes);
    if (outcome.weight == 0) return outcome;
    if (outcome.weight != 1) ++outcome.notes.remarks[kWeightRemark];
    try {
        if (const auto* pair = std::get_if<PreferenceExample>(&example)) {
            outcome.pair = encode_pair(*pair, outcome.notes);
        } else {
            outcome.row = encode_example(example, outcome.notes);
        }
    } catch (const UserError& error) {
        throw UserError(error.code(), fmt::format("{}: {}", row.place, error.what()));
    }
    bool kept = true;
    if (outcome.row) kept = fit(*outcome.row, row.place, outcome);
    for (EncodedRow EncodedPair::*answer : {&EncodedPair::chosen, &EncodedPair::rejected})
        kept = (!outcome.pair || fit(*outcome.pair.*answer, row.place, outcome)) && kept;
    if (!kept) {
        outcome.row.reset();
        outcome.pair.reset();
    }
    return outcome;
}

/// Cuts a document that is too long, and says so; false if it is to be skipped.
bool RowEncoder::fit(EncodedRow& made, const std::string& place, Outcome& outcome) const {
    made.place = place;
    made.given_tokens = std::ssize(made.ids);
    outcome.given_tokens = std::max(outcome.given_tokens, made.given_tokens);
    const auto limit = static_cast<std::size_t>(options_.max_length);
    if (made.ids.size() <= limit) {
        check_ids(made);
        return true;
    }
    if (options_.overlong == Overlong::kError) {
        throw UserError(
            fmt::format("{}: {} tokens, data.max_length is {}. Raise it, or set data.overlong "
                        "to truncate or skip.",
                        place, made.ids.size(), limit));
    }
    const std::int64_t supervised = made.supervised();
    if (options_.overlong == Overlong::kSkip) {
        outcome.supervised_lost += supervised;
        return false;
    }
    made.ids.resize(limit);
    made.labels.resize(limit);
    outcome.supervised_lost += supervised - made.supervised();
    outcome.truncated = true;
    check_ids(made);
    return true;
}

/// Tokens that were added to the tokenizer alone.
void RowEncoder::check_ids(const EncodedRow& made) const {
    for (const std::int32_t id : made.ids) {
        if (id < options_.vocabulary_count) continue;
        throw UserError(fmt::format(
            "{}: {}", made.place,
            beyond_embedding(id, tokenizer_.token_text(id), options_.vocabulary_count)));
    }
}

EncodedRow RowEncoder::encode_example(const Example& example, RowNotes& notes) const {
    const bool all = options_.loss_on_all;
    if (const auto* text = std::get_if<TextExample>(&example)) return encode_text(*text);
    if (const auto* prompt = std::get_if<PromptExample>(&example))
        return encode_prompt(*prompt, all);
    if (const auto* tokens = std::get_if<TokenExample>(&example)) return encode_tokens(*tokens);
    return encode_chat(std::get<ChatExample>(example), all, notes);
}

EncodedPair RowEncoder::encode_pair(const PreferenceExample& example, RowNotes& notes) const {
    RowNotes notes_of_one;
    const auto answer = [&](const std::variant<PromptExample, ChatExample>& one) {
        if (const auto* prompt = std::get_if<PromptExample>(&one))
            return encode_prompt(*prompt, false);
        notes_of_one = {};
        return encode_chat(std::get<ChatExample>(one), false, notes_of_one);
    };
    EncodedPair pair{answer(example.chosen), answer(example.rejected)};
    notes.add(notes_of_one);  // a row counts once, by its last answer
    return pair;
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
                throw UserError(beyond_embedding(id, "", options_.vocabulary_count));
            }
        }
    }
    EncodedRow row;
    row.ids = example.ids;
    row.labels = options_.loss_on_all ? example.ids : example.labels;
    return row;
}

namespace {

/// Roles beyond those that templates know print as anything, and "bot" or "Assistant" may have
/// been meant to be learnt.
void note_roles(const Conversation& conversation, RowNotes& notes) {
    constexpr std::array<std::string_view, 7> kKnown{
        "system", "developer", "user", "assistant", "tool", "ipython", "observation"};
    std::set<std::string_view> unknown;
    for (std::size_t i = 0; i < conversation.count(); ++i) {
        if (std::ranges::find(kKnown, conversation.role(i)) == kKnown.end())
            unknown.insert(conversation.role(i));
    }
    for (const std::string_view role : unknown) {
        ++notes.remarks[fmt::format(
            "messages of role \"{}\" carry no loss: only those of role \"assistant\" do", role)];
    }
}

/// The turns that a row takes the loss from. UserError where it asks for what is not done.
std::vector<std::size_t> turns_without_loss(const Conversation& conversation,
                                            const ChatExample& example, bool loss_on_all) {
    std::vector<std::size_t> turns;
    for (std::size_t i = 0; i < conversation.count(); ++i) {
        const TurnLoss loss = example.loss_of(i);
        const bool assistant = conversation.role(i) == "assistant";
        if (!assistant && loss == (loss_on_all ? TurnLoss::kNone : TurnLoss::kWanted)) {
            throw UserError(fmt::format(
                "message {} ({}) is {} by its row (train, loss_mask), but {}. Take that out of the "
                "row, or set data.loss_on to {}.",
                i + 1, conversation.role(i), loss_on_all ? "not to be trained" : "to be trained",
                loss_on_all ? "data.loss_on is all" : "only the assistant's turns are",
                loss_on_all ? "completions" : "all"));
        }
        if (assistant && loss == TurnLoss::kNone) turns.push_back(i);
    }
    return turns;
}

/// Where tokens touch one of the spans, which are in order: the token's id if `trained`, else -100.
void label_tokens(const std::vector<TokenSpan>& tokens, const std::vector<ByteSpan>& spans,
                  bool trained, EncodedRow& row) {
    std::size_t next = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        const auto begin = static_cast<std::size_t>(tokens[i].begin),
                   end = static_cast<std::size_t>(tokens[i].end);
        while (next < spans.size() &&
               (spans[next].second <= begin || spans[next].second == spans[next].first))
            ++next;
        if (next < spans.size() && end > spans[next].first)
            row.labels[i] = trained ? row.ids[i] : kIgnoreIndex;
    }
}

}  // namespace

EncodedRow RowEncoder::encode_chat(const ChatExample& example, bool loss_on_all,
                                   RowNotes& notes) const {
    if (chat_ == nullptr) {
        throw UserError(
            "the row is a conversation, but the model has no chat template. Use prompt and "
            "completion columns, or a model or "
            "tokenizer with a chat template.");
    }
    const Conversation conversation(*chat_, example, options_.chat_variables);
    const ChatTemplate::Rendered full = conversation.render(conversation.count(), false);
    conversation.note_unread(notes);
    const std::vector<TokenSpan> tokens = tokenizer_.encode_with_offsets(full.text, false);
    EncodedRow row;
    row.chat_template = &conversation.chat() == chat_ ? "default" : "tool_use";
    for (const TokenSpan& token : tokens) row.ids.push_back(token.id);
    const auto without = turns_without_loss(conversation, example, loss_on_all);
    const auto* eos = options_.chat_variables.if_contains("eos_token");
    Turns turns(conversation, full, tokens,
                eos != nullptr && eos->is_string() ? std::string_view(eos->get_string()) : "",
                [this](const std::string& text) { return tokenizer_.encode(text, false); });
    if (loss_on_all) {
        row.labels = row.ids;
        std::vector<ByteSpan> spans;
        for (const std::size_t turn : without) spans.push_back(turns.assistant(turn));
        label_tokens(tokens, spans, false, row);
    } else {
        note_roles(conversation, notes);
        row.labels.assign(row.ids.size(), kIgnoreIndex);
        label_tokens(tokens, turns.trained(example.prompt_count, without), true, row);
    }
    if (turns.generation_prompt_differs()) ++notes.remarks[kPromptRemark];
    return row;
}

}  // namespace qshard
