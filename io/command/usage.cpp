#include "io/command/usage.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <vector>

#include "base/nearest.h"

namespace qshard {
namespace {

/// The command that was given, as far as it was understood.
CLI::App& innermost(CLI::App& app) {
    CLI::App* command = &app;
    while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
    return *command;
}

std::vector<std::string> option_names(CLI::App& command) {
    std::vector<std::string> names;
    for (const CLI::Option* option : command.get_options()) {
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    for (CLI::App* group : command.get_subcommands([](CLI::App*) { return true; })) {
        if (!group->get_name().empty()) continue;  // a group of options has no name of its own
        for (const std::string& name : option_names(*group)) names.push_back(name);
    }
    return names;
}

std::vector<std::string> command_names(CLI::App& command) {
    std::vector<std::string> names;
    for (const CLI::App* one : command.get_subcommands([](CLI::App*) { return true; })) {
        if (!one->get_name().empty()) names.push_back(one->get_name());
    }
    return names;
}

std::string path_of(const CLI::App& app, const CLI::App& command) {
    return &app == &command ? app.get_name() : app.get_name() + " " + command.get_name();
}

std::string what_is_wrong(CLI::App& app, CLI::App& command, const CLI::ParseError& error) {
    const std::vector<std::string> commands = command_names(command);
    // A misspelt command may have been taken for an argument known by its place.
    for (const CLI::Option* option : command.get_options()) {
        if (!option->get_positional()) continue;
        for (const std::string& word : option->results()) {
            if (nearest(word, commands))
                return fmt::format("unknown command {}{}", word, did_you_mean(word, commands));
        }
    }
    for (const std::string& word : app.remaining(true)) {
        if (word.starts_with("-") && word.size() > 1) {
            const std::string name = word.substr(0, word.find('='));
            return fmt::format("unknown option {}{}", name,
                               did_you_mean(name, option_names(command)));
        }
        if (!commands.empty())
            return fmt::format("unknown command {}{}", word, did_you_mean(word, commands));
        return fmt::format("{} is one argument too many", word);
    }
    if (!commands.empty() && &app == &command)
        return fmt::format("which command? One of {}", fmt::join(commands, ", "));
    return error.what();
}

}  // namespace

std::string usage_problem(CLI::App& app, const CLI::ParseError& error) {
    CLI::App& command = innermost(app);
    const std::string problem = what_is_wrong(app, command, error);
    return fmt::format("{}{} See {} --help", problem, problem.ends_with('?') ? "" : ".",
                       path_of(app, command));
}

}  // namespace qshard
