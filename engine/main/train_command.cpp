#include <cstdio>

#include "base/standard_streams.h"
#include "comm/agree.h"
#include "io/run/key_reference.h"
#include "main/commands.h"
#include "main/train_run.h"

namespace qshard {
namespace {

int print_keys(const std::string& pattern) {
    const std::string text = key_reference(pattern);
    if (text.empty()) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("no key of a run file has \"{}\" in its name or meaning. All "
                                    "keys: qshard train --keys",
                                    pattern));
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
}

}  // namespace

void add_train_command(Command program) {
    auto arguments = std::make_shared<TrainArguments>();
    Command command = program.subcommand("train", "Fine-tune a model as a run file says");
    auto keys = std::make_shared<bool>(false);
    command.option("RUN.yaml", arguments->run_file,
                   "the run file (with --keys: a word to look for)");
    command.flag(
        "--keys", *keys,
        "print every key of a run file, or those with a word: what it means, what it takes, "
        "its default");
    command.option("--set", arguments->overrides,
                   "override a key of the run file: key.path=value (may repeat)");
    command.option(
        "--resume", arguments->resume,
        "auto: go on from the output folder's newest good checkpoint; never; or a checkpoint file, "
        "or "
        "a folder with some: go back to it (what is newer in the output folder is set aside)");
    command.flag("--dry-run", arguments->dry_run,
                 "check the run file, open model and data, print the plan; train nothing");
    command
        .option("--ranks", arguments->ranks,
                "ranks as threads of this process (placement.transport threads)")
        .between(1, 1024);
    command.footer(
        "Under mpirun or srun --mpi=pmix every process is a rank: mpirun -np 4 qshard train "
        "run.yaml");
    command.action([arguments, keys] {
        if (*keys) return print_keys(arguments->run_file);
        if (arguments->run_file.empty()) {
            throw UserError(ExitCode::kUsage,
                            "which run file? qshard train RUN.yaml; its keys: qshard train --keys");
        }
        if (!arguments->dry_run) outlive_readers();
        // A bad run file is every rank's error, so it is thrown where the ranks agree and one
        // of them prints.
        RunFile file;
        std::exception_ptr problem;
        try {
            file = load_run_file(arguments->run_file, arguments->overrides);
        } catch (const Error&) {
            problem = std::current_exception();
        }
        return run_ranks(file.placement.transport, arguments->ranks,
                         wants_gpus(file.placement.backend),
                         [&](Communicator& group, int local_ranks, const Launch* launch) {
                             agree(group, "reading the run file", [&] {
                                 if (problem) std::rethrow_exception(problem);
                             });
                             TrainRun(*arguments, file, group, local_ranks, launch).execute();
                         });
    });
}

}  // namespace qshard
