#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "base/standard_streams.h"
#include "io/command/usage.h"
#include "io/inspect/reports.h"

namespace {

using qshard::inspect::Options;

constexpr const char* kVersion = "qshard-inspect " QSHARD_VERSION " (commit " QSHARD_COMMIT
                                 "), compiled by GCC " __VERSION__ ", without MPI and CUDA";

struct Command {
    const char* name;
    const char* help;
    int (*run)(const Options&);
    bool json;
};

constexpr Command kCommands[] = {
    {"tree", "the adapter's modules and the optimizer's vectors", qshard::inspect::print_tree,
     true},
    {"tensors", "every tensor: name, shape, norm", qshard::inspect::print_tensors, true},
    {"stats", "norms and sizes of the update, by layer and target", qshard::inspect::print_stats,
     true},
    {"verify", "check digests; exit code 65 if one is damaged", qshard::inspect::print_verify,
     true},
    {"log", "metrics.jsonl: table and loss curve", qshard::inspect::print_log, true},
};

int run(int argc, char** argv) {
    CLI::App app("Shows what is in checkpoints, adapters and output folders of qshard.",
                 "qshard-inspect");
    app.set_version_flag("--version", kVersion);
    Options options;
    int (*chosen)(const Options&) = qshard::inspect::print_summary;
    std::string format;
    app.add_option("path", options.path,
                   "checkpoint, PEFT folder, checkpoints folder, output folder or weight store");
    app.add_flag("--json", options.json, "for scripts");
    const auto add = [&](const char* name, const char* help, int (*function)(const Options&)) {
        CLI::App* command = app.add_subcommand(name, help);
        command->callback([&chosen, function] { chosen = function; });
        return command;
    };
    for (const Command& row : kCommands) {
        CLI::App* command = add(row.name, row.help, row.run);
        command->add_option("path", options.path, "file or folder")->required();
        command->add_flag("--json", options.json, "for scripts");
    }
    CLI::App* diff = add("diff", "what differs between two; exit code 1 if something does",
                         qshard::inspect::print_diff);
    diff->add_option("a", options.path, "file or folder")->required();
    diff->add_option("b", options.other, "file or folder")->required();
    diff->add_flag("--json", options.json, "for scripts");
    CLI::App* to_peft = add("export", "write a PEFT adapter folder", qshard::inspect::export_peft);
    to_peft->add_option("path", options.path, "file or folder")->required();
    to_peft->add_option("--to", format, "format: peft")->required()->check(CLI::IsMember({"peft"}));
    to_peft->add_option("out", options.other, "folder to write")->required();
    app.require_subcommand(0, 1);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
        throw qshard::UserError(qshard::ExitCode::kUsage, qshard::usage_problem(app, error));
    }
    if (options.path.empty()) {
        fmt::print(stderr, "qshard-inspect: which file or folder? See qshard-inspect --help\n");
        return static_cast<int>(qshard::ExitCode::kUsage);
    }
    return chosen(options);
}

/// The exit code of any error, after its message.
int guarded(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fflush(stdout);
        const qshard::Failure failure = qshard::failure_of(error);
        std::fprintf(stderr, "qshard-inspect: %s\n", failure.message.c_str());
        return static_cast<int>(failure.code);
    }
}

}  // namespace

int main(int argc, char** argv) {
    qshard::open_standard_streams();
    return qshard::finish_stdout("qshard-inspect", guarded(argc, argv));
}
