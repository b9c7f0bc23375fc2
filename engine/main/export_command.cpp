#include "base/error.h"
#include "io/peft/adapter_folder.h"
#include "main/adapter_file.h"
#include "main/commands.h"

/// `qshard export`: a checkpoint in a format that other programs read.
namespace qshard {
namespace {

struct Arguments {
    std::string checkpoint, format, out;
};

int export_adapter(const Arguments& arguments) {
    if (arguments.format != "peft") {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("export --to {}: not supported yet; expected --to peft", arguments.format));
    }
    const AdapterFile adapter = read_newest_checkpoint(arguments.checkpoint);
    write_peft_adapter(arguments.out, adapter.state);
    fmt::print("{}: PEFT adapter of step {}, from {}\n", arguments.out, adapter.state.step,
               adapter.path.string());
    return 0;
}

}  // namespace

void add_export_command(CLI::App& app, Run& run) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command =
        app.add_subcommand("export", "Write a checkpoint's adapter for other programs");
    command
        ->add_option("CHECKPOINT", arguments->checkpoint,
                     "checkpoint (.h5) or output folder (its newest checkpoint)")
        ->required();
    command->add_option("--to", arguments->format, "peft")
        ->required()
        ->check(CLI::IsMember({"peft", "gguf", "merged-hf", "merged-gguf"}));
    command->add_option("OUT", arguments->out, "folder to write")->required();
    command->callback(
        [arguments, &run] { run = [arguments] { return export_adapter(*arguments); }; });
}

}  // namespace qshard
