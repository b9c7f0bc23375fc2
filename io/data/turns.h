#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/data/conversation.h"
#include "io/tokenizer/tokenizer.h"

namespace qshard {

/// [begin, end) in bytes of a text.
using ByteSpan = std::pair<std::size_t, std::size_t>;

/// Where the turns of a rendered conversation lie. Templates do not say it: beginnings of the
/// conversation are rendered, too, and compared.
class Turns {
  public:
    /// `tokens` are those of `full.text`; `encode` makes the ids of another text. All must outlive
    /// it. `eos` is the text of the end-of-sequence token, or empty.
    template <class Encode>
    Turns(const Conversation& conversation, const ChatTemplate::Rendered& full,
          std::span<const TokenSpan> tokens, std::string_view eos, Encode encode)
        : conversation_(conversation), full_(full), tokens_(tokens), eos_(eos), encode_(encode) {}

    /// What carries loss: of each assistant turn from `first` on, but those of `without`, what the
    /// template printed inside of {% generation %} blocks, or, if it has none, what it prints
    /// beyond the generation prompt up to the end of the turn.
    std::vector<ByteSpan> trained(std::size_t first, const std::vector<std::size_t>& without);
    /// An assistant's turn as it is trained without blocks.
    ByteSpan assistant(std::size_t turn);
    /// Whether a turn was printed otherwise than the generation prompt begins it.
    bool generation_prompt_differs() const { return differs_; }

  private:
    std::size_t prompt_bytes(std::size_t count);
    std::optional<std::size_t> rewritten_turn_begin(std::size_t count,
                                                    std::string_view generation_prompt) const;
    std::size_t turn_end(std::size_t count);
    std::optional<std::size_t> rewritten_turn_end(std::size_t count) const;
    std::optional<std::size_t> end_of_beginning(std::string text) const;
    [[noreturn]] void fail(std::size_t count) const;

    const Conversation& conversation_;
    const ChatTemplate::Rendered& full_;
    std::span<const TokenSpan> tokens_;
    std::string_view eos_;
    std::function<std::vector<std::int32_t>(const std::string&)> encode_;
    bool differs_ = false;
};

}  // namespace qshard
