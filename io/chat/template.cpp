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

ChatTemplate::Rendered ChatTemplate::render(const boost::json::array& messages,
                                            bool add_generation_prompt,
                                            const boost::json::object& variables) const {
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
    return jinja::has_generation_block(tree_->body);
}

bool ChatTemplate::uses_clock() const {
    return source_.find("strftime_now") != std::string::npos;
}

void ChatTemplate::pin_clock(std::int64_t unix_seconds) {
    clock_ = unix_seconds;
}

}  // namespace qshard
