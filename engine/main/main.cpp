#include <cstdio>
#include <string>

#include "backend/backend.h"
#include "base/error.h"
#include "main/commands.h"
#include "main/cores.h"
#include "main/version.h"

/// The program: subcommands in commands.h, one file each.
int main(int argc, char** argv) {
    using namespace qshard;
    leave_default_binding();
    CommandLine line(
        "qshard fine-tunes large language models with QLoRA over MPI: the 4-bit base is shared out "
        "over the ranks, only the LoRA gradients travel, and the adapter's bits do not depend on "
        "who computed what.",
        version_text());
    Command program = line.program();
    program.footer(
        "Look at results with qshard-inspect. Start on a cluster with sbatch jobs/train.sbatch "
        "RUN.yaml.");
    add_train_command(program);
    add_data_command(program);
    add_eval_command(program);
    add_generate_command(program);
    add_score_command(program);
    add_plan_command(program);
    add_quantize_command(program);
    add_export_command(program);
    add_bench_command(program);
    add_doctor_command(program);
    const Run run = line.parse(argc, argv);
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
