#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "backend/backend.h"
#include "base/error.h"
#include "main/commands.h"
#include "main/version.h"

/// The program: subcommands in commands.h, one file each.
int main(int argc, char** argv) {
    using namespace qshard;
    CLI::App app(
        "qshard fine-tunes large language models with QLoRA over MPI: the 4-bit base is shared out "
        "over the ranks, "
        "only the LoRA gradients travel, and the adapter's bits do not depend on who computed "
        "what.");
    app.set_version_flag("--version", version_text());
    app.require_subcommand(1);
    app.footer(
        "Look at results with qshard-inspect. Start on a cluster with sbatch jobs/train.sbatch "
        "RUN.yaml.");
    Run run;
    add_train_command(app, run);
    add_eval_command(app, run);
    add_generate_command(app, run);
    add_score_command(app, run);
    add_quantize_command(app, run);
    add_export_command(app, run);
    add_bench_command(app, run);
    add_doctor_command(app, run);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
    }
    try {
        return run();
    } catch (const Error& error) {
        std::fflush(stdout);
        std::fprintf(stderr, "qshard: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fflush(stdout);
        std::fprintf(stderr, "qshard: unexpected error: %s\n", error.what());
        return static_cast<int>(ExitCode::kBug);
    }
}
