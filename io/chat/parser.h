#pragma once

#include <string>
#include <string_view>

#include "io/chat/ast.h"

namespace qshard::jinja {

class TemplateSyntaxError : public TemplateError {
  public:
    TemplateSyntaxError(const std::string& message, int line)
        : TemplateError(message), line_(line) {}
    int line() const { return line_; }

  private:
    int line_;
};

/// Parses a template with jinja2's grammar (3.1), less what chat templates cannot use: include,
/// import, extends, block, recursive loops. TemplateSyntaxError names the line. Nesting is limited
/// to 100.
Body parse_template(std::string_view source);

/// True if a {% generation %} block occurs in the tree.
bool has_generation_block(const Body& body);

}  // namespace qshard::jinja
