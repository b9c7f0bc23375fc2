#include <cstdio>
#include <string>

#include "backend/backend.h"
#include "base/error.h"
#include "base/standard_streams.h"
#include "main/commands.h"
#include "main/cores.h"
#include "main/version.h"

namespace {

int program(int argc, char** argv) {
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
    } catch (const std::exception& error) {
        std::fflush(stdout);
        const Failure failure = failure_of(error);
        std::fprintf(stderr, "qshard: %s\n", failure.message.c_str());
        return static_cast<int>(failure.code);
    }
}

}  // namespace

/// The program: subcommands in commands.h, one file each.
int main(int argc, char** argv) {
    qshard::open_standard_streams();
    return qshard::finish_stdout("qshard", program(argc, argv));
}
