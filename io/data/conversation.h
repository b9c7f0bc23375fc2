#pragma once

#include <boost/json.hpp>
#include <cstddef>
#include <string>
#include <string_view>

#include "io/chat/template.h"
#include "io/data/format.h"
#include "io/data/row_keys.h"

namespace qshard {

/// A conversation made ready for a chat template, the same for training, eval, score and generate.
///
/// As transformers 5 has it: members of messages that are null are left out (nulls further inside,
/// in tools and arguments, are printed as the row has them); reasoning goes by the names
/// reasoning_content and thinking, whichever of them or "reasoning" the row has; tools and
/// documents that are absent are none; with tools, the template "tool_use" is taken if there is
/// one.
///
/// Beyond that, only where the template cannot take it so: arguments of calls, which are objects,
/// become JSON text; a null content beside calls stays null; parts of a content, which are texts,
/// are joined without anything between them; the role developer becomes system.
class Conversation {
  public:
    /// `chat` must outlive it. UserError (without the row's place) where the template fails, naming
    /// the message and what its content is.
    Conversation(const ChatTemplate& chat, const ChatExample& example,
                 const boost::json::object& variables);

    /// The template's text of the first `count` messages.
    ChatTemplate::Rendered render(std::size_t count, bool generation_prompt) const;
    /// The same with another content of one of them; UserError from the template as it is.
    std::string render_with(std::size_t message, std::string_view content, std::size_t count) const;

    std::size_t count() const { return messages_.size(); }
    std::string_view role(std::size_t message) const;
    const ChatTemplate& chat() const { return *chat_; }
    /// Adds what the template does not read of it.
    void note_unread(RowNotes& notes) const;

  private:
    struct Form;
    void take_form(const Form& form);
    void note_lost_calls(RowNotes& notes) const;
    void choose_form();
    void join_parts();
    void map_developer();
    bool prints(std::size_t message, const boost::json::value& content,
                std::string_view mark) const;
    ChatTemplate::Rendered render_messages(const boost::json::array& messages, std::size_t count,
                                           bool generation_prompt) const;
    std::string blame(const std::string& what) const;

    const ChatTemplate* chat_;
    boost::json::array given_;     ///< as the row has them
    boost::json::array messages_;  ///< as the template takes them
    boost::json::object variables_;
};

}  // namespace qshard
