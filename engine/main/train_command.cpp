#include "comm/agree.h"
#include "main/commands.h"
#include "main/train_run.h"

namespace qshard {

void add_train_command(CLI::App& app, Run& run) {
    auto arguments = std::make_shared<TrainArguments>();
    CLI::App* command = app.add_subcommand("train", "Fine-tune a model as a run file says");
    command->add_option("RUN.yaml", arguments->run_file, "the run file")->required();
    command
        ->add_option("--set", arguments->overrides,
                     "override a key of the run file: key.path=value (may repeat)")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command->add_option(
        "--resume", arguments->resume,
        "auto: go on from the output folder's newest good checkpoint; never; or a checkpoint file");
    command->add_flag("--dry-run", arguments->dry_run,
                      "check the run file, open model and data, print the plan; train nothing");
    command
        ->add_option("--ranks", arguments->ranks,
                     "ranks as threads of this process (placement.transport threads)")
        ->check(CLI::Range(1, 1024));
    command->footer(
        "Under mpirun or srun --mpi=pmix every process is a rank: mpirun -np 4 qshard train "
        "run.yaml");
    command->callback([arguments, &run] {
        run = [arguments] {
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
        };
    });
}

}  // namespace qshard
