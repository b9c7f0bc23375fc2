#pragma once

#include <string>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace qshard {

/// What a word that is no option is as a key of the run file, or "".
using KeyMeant = std::string (*)(const std::string& word);

/// What is wrong with a command line that `app` refused: commands and options that are not known
/// with the one that was meant, else the parser's own words, and where help is. Without a newline.
/// `key_meant` is asked about options of commands that have --set.
std::string usage_problem(CLI::App& app, const CLI::ParseError& error,
                          KeyMeant key_meant = nullptr);

}  // namespace qshard
