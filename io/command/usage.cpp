#include "io/command/usage.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
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

std::string unknown_option(const std::string& word, const std::vector<std::string>& known,
                           KeyMeant key_meant) {
    const std::string name = word.substr(0, word.find('='));
    const std::string text = fmt::format("unknown option {}", name);
    const std::string near = did_you_mean(name, known);
    const std::size_t letters = name.find_first_not_of('-');
    if (!near.empty() || letters == std::string::npos || key_meant == nullptr) return text + near;
    const std::string key = key_meant(name.substr(letters));
    if (key.empty()) return text;
    return fmt::format("{}; as a key of the run file, {} Keys are set there, or by --set KEY=VALUE",
                       text, key);
}

std::string what_is_wrong(CLI::App& app, CLI::App& command, const CLI::ParseError& error,
                          KeyMeant key_meant) {
    const std::vector<std::string> options = option_names(command);
    const bool sets_keys = std::ranges::find(options, "--set") != options.end();
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
        if (word.starts_with("-") && word.size() > 1)
            return unknown_option(word, options, sets_keys ? key_meant : nullptr);
        if (!commands.empty())
            return fmt::format("unknown command {}{}", word, did_you_mean(word, commands));
        if (sets_keys && word.find('=') != std::string::npos) {
            return fmt::format(
                "{} stands alone; expected --set KEY=VALUE for each key, without "
                "spaces around \"=\"",
                word);
        }
        return fmt::format("{} is one argument too many", word);
    }
    if (!commands.empty() && &app == &command)
        return fmt::format("which command? One of {}", fmt::join(commands, ", "));
    return error.what();
}

}  // namespace

std::string usage_problem(CLI::App& app, const CLI::ParseError& error, KeyMeant key_meant) {
    CLI::App& command = innermost(app);
    const std::string problem = what_is_wrong(app, command, error, key_meant);
    return fmt::format("{}{} See {} --help", problem, problem.ends_with('?') ? "" : ".",
                       path_of(app, command));
}

}  // namespace qshard
