#include "main/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

#include "base/error.h"
#include "io/command/usage.h"
#include "io/run/key_reference.h"

namespace qshard {

CommandOption& CommandOption::required() {
    option_->required();
    return *this;
}

CommandOption& CommandOption::one_of(const std::vector<std::string>& values) {
    option_->check(CLI::IsMember(values));
    return *this;
}

CommandOption& CommandOption::between(int low, int high) {
    option_->check(CLI::Range(low, high));
    return *this;
}

CommandOption& CommandOption::between(double low, double high) {
    option_->check(CLI::Range(low, high));
    return *this;
}

CommandOption& CommandOption::excludes(CommandOption other) {
    option_->excludes(other.option_);
    return *this;
}

template <class T>
CommandOption Command::option(const std::string& name, T& value, const std::string& help) {
    CLI::Option* option = app_->add_option(name, value, help);
    if constexpr (std::is_same_v<T, std::vector<std::string>>)
        option->expected(1)->allow_extra_args(false)->multi_option_policy(
            CLI::MultiOptionPolicy::TakeAll);
    return CommandOption(*option);
}
#define QSHARD_OPTION_OF(T) \
    template CommandOption Command::option(const std::string&, T&, const std::string&);
QSHARD_OPTION_OF(int)
QSHARD_OPTION_OF(double)
QSHARD_OPTION_OF(std::optional<double>)
QSHARD_OPTION_OF(std::int64_t)
QSHARD_OPTION_OF(std::uint64_t)
QSHARD_OPTION_OF(std::string)
QSHARD_OPTION_OF(std::optional<std::int64_t>)
QSHARD_OPTION_OF(std::optional<std::string>)
QSHARD_OPTION_OF(std::vector<std::string>)
#undef QSHARD_OPTION_OF

void Command::flag(const std::string& name, bool& value, const std::string& help) {
    app_->add_flag(name, value, help);
}

Command Command::choice(const std::string& name) {
    CLI::Option_group* group = app_->add_option_group(name);
    group->require_option(1);
    return {*group, *run_};
}

Command Command::subcommand(const std::string& name, const std::string& help) {
    app_->require_subcommand(1);
    return {*app_->add_subcommand(name, help), *run_};
}

void Command::footer(const std::string& text) {
    app_->footer(text);
}

void Command::action(Run run) {
    app_->callback([to = run_, run = std::move(run)] { *to = run; });
}

CommandLine::CommandLine(const std::string& description, const std::string& version)
    : app_(std::make_unique<CLI::App>(description)) {
    app_->name("qshard");
    app_->set_version_flag("--version", version);
}

CommandLine::~CommandLine() = default;

Command CommandLine::program() {
    return {*app_, run_};
}

Run CommandLine::parse(int argc, const char* const* argv) {
    try {
        // qshard help train
        if (argc > 1 && std::string_view(argv[1]) == "help") {
            std::vector<std::string> words(argv + 2, argv + argc);
            words.emplace_back("--help");
            std::ranges::reverse(words);
            app_->parse(words);
        }
        app_->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) {  // --help, --version
            app_->exit(error);
            return [] { return 0; };
        }
        const std::string problem = usage_problem(*app_, error, key_meant);
        return [problem]() -> int { throw UserError(ExitCode::kUsage, problem); };
    }
    return run_;
}

}  // namespace qshard
