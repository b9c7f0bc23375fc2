#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

/// Declaring what the program takes on its command line. CLI11 does the work, in command_line.cpp
/// alone: every source that includes it compiles for fifteen seconds.
namespace qshard {

/// Does what the command line asked for and returns the exit code. Errors are thrown.
using Run = std::function<int()>;

/// An option of a command, to say what it takes.
class CommandOption {
  public:
    explicit CommandOption(CLI::Option& option) : option_(&option) {}
    CommandOption& required();
    CommandOption& one_of(const std::vector<std::string>& values);
    CommandOption& between(int low, int high);  ///< both included
    CommandOption& between(double low, double high);
    CommandOption& excludes(CommandOption other);

  private:
    CLI::Option* option_;
};

/// A command: its options, and what to do if it is the one given. Cheap to copy.
class Command {
  public:
    Command(CLI::App& app, Run& run) : app_(&app), run_(&run) {}

    /// `name`: "--name", or without dashes for an argument that is known by its place. `value`, a
    /// number, std::string, std::optional of one, or std::vector<std::string> for an option that
    /// may repeat, must outlive the parsing.
    template <class T>
    CommandOption option(const std::string& name, T& value, const std::string& help);
    void flag(const std::string& name, bool& value, const std::string& help);
    /// Options of which exactly one must be given.
    Command choice(const std::string& name);
    /// A command that can be given after this one, which then needs one.
    Command subcommand(const std::string& name, const std::string& help);
    void footer(const std::string& text);  ///< of its help
    void action(Run run);

  private:
    CLI::App* app_;
    Run* run_;
};

class CommandLine {
  public:
    CommandLine(const std::string& description, const std::string& version);
    ~CommandLine();
    Command program();
    /// The action of the command that was given. After --help, --version or an error, which are
    /// printed here, one that only returns the exit code.
    Run parse(int argc, const char* const* argv);

  private:
    std::unique_ptr<CLI::App> app_;
    Run run_;
};

}  // namespace qshard
