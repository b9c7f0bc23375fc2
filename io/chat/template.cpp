#include "io/chat/template.h"

#include "base/error.h"
#include "io/chat/evaluator.h"
#include "io/chat/parser.h"
#include "io/chat/text.h"

namespace qshard {

constexpr std::size_t kMaxSourceBytes = 1u << 20;

struct ChatTemplate::Tree {
    jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string source, std::string origin, std::unique_ptr<const Tree> tree)
    : source_(std::move(source)), origin_(std::move(origin)), tree_(std::move(tree)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::parse(std::string source, std::string origin) {
    if (source.size() > kMaxSourceBytes || !jinja::valid_utf8(source)) {
        throw UserError(
            fmt::format("chat template of {}: expected UTF-8 of at most {} bytes, found {} bytes",
                        origin, kMaxSourceBytes, source.size()));
    }
    try {
        auto tree = std::make_unique<Tree>();
        tree->body = jinja::parse_template(source);
        return ChatTemplate(std::move(source), std::move(origin), std::move(tree));
    } catch (const jinja::TemplateSyntaxError& error) {
        throw UserError(
            fmt::format("chat template of {}, line {}: {}", origin, error.line(), error.what()));
    }
}

ChatTemplate ChatTemplate::parse_named(const std::map<std::string, std::string>& templates,
                                       const std::string& origin) {
    const auto first = templates.find("default");
    ChatTemplate made =
        first != templates.end() ? parse(first->second, origin) : ChatTemplate({}, origin, nullptr);
    const auto tools = templates.find("tool_use");
    if (tools != templates.end()) {
        made.tool_use_ =
            std::make_unique<ChatTemplate>(parse(tools->second, origin + " (tool_use)"));
    }
    for (const auto& [name, text] : templates)
        made.names_ += (made.names_.empty() ? "" : ", ") + name;
    return made;
}

const ChatTemplate& ChatTemplate::chosen(bool with_tools) const {
    if (with_tools && tool_use_) return *tool_use_;
    if (tree_ == nullptr) {
        throw UserError(
            fmt::format("{} has several chat templates ({}) and none is the default. Save the one "
                        "to use as chat_template.jinja beside the tokenizer.",
                        origin_, names_));
    }
    return *this;
}

ChatTemplate::Rendered ChatTemplate::render(const boost::json::array& messages,
                                            bool add_generation_prompt,
                                            const boost::json::object& variables) const {
    check(tree_ != nullptr, "a template that is rendered was chosen()");
    std::unique_ptr<jinja::Evaluator> evaluator;
    try {
        evaluator = std::make_unique<jinja::Evaluator>(variables, clock_);
        evaluator->define("messages", jinja::Value::from_json(messages));
        evaluator->define("add_generation_prompt", jinja::Value::boolean(add_generation_prompt));
        evaluator->run(tree_->body);
        return {evaluator->output(), evaluator->generation_spans()};
    } catch (const jinja::TemplateError& error) {
        const int line = evaluator != nullptr ? evaluator->line() : 0;
        throw UserError(
            fmt::format("chat template of {}, line {}: {}", origin_, line, error.what()));
    }
}

bool ChatTemplate::has_generation_blocks() const {
    return tree_ != nullptr && jinja::has_generation_block(tree_->body);
}

bool ChatTemplate::uses_clock() const {
    return mentions("strftime_now") || (tool_use_ && tool_use_->uses_clock());
}

void ChatTemplate::pin_clock(std::int64_t unix_seconds) {
    clock_ = unix_seconds;
    if (tool_use_) tool_use_->pin_clock(unix_seconds);
}

}  // namespace qshard
