#pragma once

#include <string>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace qshard {

/// What is wrong with a command line that `app` refused: commands and options that are not known
/// with the one that was meant, else the parser's own words, and where help is. Without a newline.
std::string usage_problem(CLI::App& app, const CLI::ParseError& error);

}  // namespace qshard
