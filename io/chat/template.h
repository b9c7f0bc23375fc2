#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qshard {

/// A chat template: Jinja as transformers runs it (trim_blocks, lstrip_blocks, loop controls, a
/// sandbox, {% generation %} blocks). Immutable after parsing and pin_clock; rendering is safe from
/// many threads. A hostile template or conversation ends with a UserError: work, memory and nesting
/// are limited (evaluator.h).
class ChatTemplate {
  public:
    /// `origin` names the template in messages ("tokenizer_config.json of models/x"). UserError
    /// with the line for a syntax error. At most 1 MiB.
    static ChatTemplate parse(std::string source, std::string origin);
    /// A model's templates by name. "default" becomes this one; "tool_use" is kept beside it for
    /// conversations with tools (chosen()). The others are never taken by themselves, as in
    /// transformers. UserError if one of the two is no template.
    static ChatTemplate parse_named(const std::map<std::string, std::string>& templates,
                                    const std::string& origin);
    ~ChatTemplate();
    ChatTemplate(ChatTemplate&&) noexcept;
    ChatTemplate& operator=(ChatTemplate&&) noexcept;

    struct Rendered {
        std::string text;
        /// Byte ranges of text that {% generation %} blocks printed, in order.
        std::vector<std::pair<std::size_t, std::size_t>> generation_spans;
    };
    /// `variables`: bos_token, eos_token, tools, documents, enable_thinking, date_string...
    /// UserError where the template raises (raise_exception) or uses what does not exist.
    /// The text is to be tokenized without adding special tokens: the template writes them.
    Rendered render(const boost::json::array& messages, bool add_generation_prompt,
                    const boost::json::object& variables) const;

    /// The template for a conversation: with tools the one named "tool_use" if there is one, else
    /// this one. UserError that lists the names if there is no default.
    const ChatTemplate& chosen(bool with_tools) const;
    /// Whether the source contains a name, so that the template may read it.
    bool mentions(std::string_view name) const { return source_.find(name) != std::string::npos; }

    /// True if the template marks what the assistant wrote.
    bool has_generation_blocks() const;
    /// True if the text depends on the day (with or without tools): pin the clock, or the data
    /// change at midnight.
    bool uses_clock() const;
    /// Makes strftime_now say this time (UTC) forever.
    void pin_clock(std::int64_t unix_seconds);

    const std::string& source() const { return source_; }
    const std::string& origin() const { return origin_; }

  private:
    struct Tree;
    ChatTemplate(std::string source, std::string origin, std::unique_ptr<const Tree> tree);

    std::string source_;
    std::string origin_;
    std::unique_ptr<const Tree> tree_;        ///< null: there is no default template
    std::unique_ptr<ChatTemplate> tool_use_;  ///< null: tools go to the default
    std::string names_;                       ///< of all, for messages
    std::optional<std::int64_t> clock_;
};

}  // namespace qshard
