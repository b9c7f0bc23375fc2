#include "io/data/turns.h"

#include <algorithm>

#include "base/error.h"

namespace qshard {

constexpr std::string_view kMark = "\ue000\ue001";  // of the private use area: in no text

void Turns::fail(std::size_t count) const {
    throw UserError(
        fmt::format("the chat template of {} prints the conversation up to message {} differently "
                    "once more follows, so that what the assistant wrote "
                    "cannot be told apart.\nSplit the conversation so that each row ends with the "
                    "only assistant turn, set data.loss_on to all, or use a "
                    "template with {{% generation %}} blocks.",
                    conversation_.chat().origin(), count));
}

/// Where a beginning of the conversation, printed alone, ends in the whole; nothing if the whole
/// begins otherwise.
std::optional<std::size_t> Turns::end_of_beginning(std::string text) const {
    if (full_.text.starts_with(text)) return text.size();
    // Phi-3 ends every conversation with the EOS token, which is not there once more follows.
    if (eos_.empty() || !text.ends_with(eos_)) return std::nullopt;
    text.resize(text.size() - eos_.size());
    if (full_.text.starts_with(text)) return text.size();
    return std::nullopt;
}

/// Where what the assistant adds after `count` messages begins: behind the generation prompt, or
/// where the turn parts from it.
std::size_t Turns::prompt_bytes(std::size_t count) {
    const std::string prompt = conversation_.render(count, true).text;
    if (full_.text.starts_with(prompt)) return prompt.size();
    // Only the generation prompt itself may differ, or how the assistant's turns before are printed
    // once more follows; what it is asked must not.
    differs_ = true;
    std::size_t least = 0;
    if (count > 0) {
        const std::string before = conversation_.render(count, false).text;
        const auto end = end_of_beginning(before);
        bool answered = false;
        for (std::size_t i = 0; i < count; ++i)
            answered = answered || conversation_.role(i) == "assistant";
        if (!end && answered && prompt.starts_with(before)) {
            const auto begin =
                rewritten_turn_begin(count, std::string_view(prompt).substr(before.size()));
            if (begin) return *begin;
        }
        if (!end) fail(count);
        least = *end;
    }
    const std::vector<std::int32_t> ids = encode_(prompt);
    std::size_t same = 0;
    while (same < std::min(ids.size(), tokens_.size()) && ids[same] == tokens_[same].id) ++same;
    if (same == tokens_.size()) return full_.text.size();
    return std::max(least, static_cast<std::size_t>(tokens_[same].begin));
}

/// The beginning of turn `count` where earlier ones are printed otherwise than before (Qwen3.5
/// leaves out their reasoning): what of the generation prompt stands last before a mark for the
/// turn's content.
std::optional<std::size_t> Turns::rewritten_turn_begin(std::size_t count,
                                                       std::string_view generation_prompt) const {
    const std::string marked = conversation_.render_with(count, kMark, conversation_.count());
    const std::size_t at = marked.find(kMark);
    if (at == std::string::npos || marked.find(kMark, at + 1) != std::string::npos) return {};
    const std::string_view before = std::string_view(marked).substr(0, at);
    for (std::size_t size = generation_prompt.size(); size > 2; --size) {
        // A header ends with its bracket or its line.
        const char last = generation_prompt[size - 1];
        if (last != '>' && last != ']' && last != '\n') continue;
        const std::size_t begin = before.rfind(generation_prompt.substr(0, size));
        if (begin == std::string_view::npos) continue;
        if (!full_.text.starts_with(before.substr(0, begin + size))) return {};
        return begin + size;
    }
    return {};
}

std::size_t Turns::turn_end(std::size_t count) {
    if (count == conversation_.count()) return full_.text.size();
    if (const auto end = end_of_beginning(conversation_.render(count, false).text)) return *end;
    if (const auto end = rewritten_turn_end(count)) return *end;
    fail(count);
}

/// The end of turn `count` - 1 where it is printed otherwise than at the end of a conversation:
/// with a mark for its content, what follows the mark shows where the content ends, and the same at
/// the end of a conversation what belongs to the turn.
std::optional<std::size_t> Turns::rewritten_turn_end(std::size_t count) const {
    const auto after_mark = [&](std::size_t messages) -> std::optional<std::string> {
        const std::string text = conversation_.render_with(count - 1, kMark, messages);
        const std::size_t at = text.find(kMark);
        if (at == std::string::npos || text.find(kMark, at + 1) != std::string::npos) return {};
        return text.substr(at + kMark.size());
    };
    const std::string& full = full_.text;
    const auto rest = after_mark(conversation_.count()), mine = after_mark(count);
    if (!rest || !mine) return {};
    if (rest->starts_with(*mine)) {
        const std::string_view after = std::string_view(*rest).substr(mine->size());
        if (full.ends_with(after)) return full.size() - after.size();
    }
    // GPT-OSS ends the last turn with another mark than the ones before: a token for a token.
    if (!full.ends_with(*rest) || encode_(*mine).size() != 1) return {};
    const auto at = static_cast<std::int64_t>(full.size() - rest->size());
    const auto token = std::find_if(tokens_.begin(), tokens_.end(),
                                    [&](const TokenSpan& one) { return one.begin == at; });
    if (token == tokens_.end()) return {};
    return static_cast<std::size_t>(token->end);
}

ByteSpan Turns::assistant(std::size_t turn) {
    return {prompt_bytes(turn), turn_end(turn + 1)};
}

std::vector<ByteSpan> Turns::trained(std::size_t first, const std::vector<std::size_t>& without) {
    const auto skipped = [&](std::size_t turn) {
        return std::find(without.begin(), without.end(), turn) != without.end();
    };
    std::vector<ByteSpan> spans;
    if (!conversation_.chat().has_generation_blocks()) {
        for (std::size_t turn = first; turn < conversation_.count(); ++turn) {
            if (conversation_.role(turn) == "assistant" && !skipped(turn))
                spans.push_back(assistant(turn));
        }
        return spans;
    }
    const std::size_t begin = first > 0 ? prompt_bytes(first) : 0;
    for (const auto& [from, to] : full_.generation_spans) {
        if (to > begin) spans.emplace_back(std::max(from, begin), to);
    }
    // A turn's blocks are those that the conversation has with it and has not before it.
    for (const std::size_t turn : without) {
        const auto blocks = [&](std::size_t count) {
            return count == 0 ? 0 : conversation_.render(count, false).generation_spans.size();
        };
        const std::size_t from = blocks(turn), to = blocks(turn + 1);
        for (std::size_t i = from; i < std::min(to, full_.generation_spans.size()); ++i) {
            const ByteSpan& block = full_.generation_spans[i];
            std::erase_if(spans, [&](const ByteSpan& span) { return span.second == block.second; });
        }
    }
    return spans;
}

}  // namespace qshard
