#pragma once

#include <CLI/CLI.hpp>
#include <functional>

/// One function per subcommand: declares its flags and, if it is the one given, sets `run` to do it
/// and return the exit code. Errors are thrown.
namespace qshard {

using Run = std::function<int()>;

void add_train_command(CLI::App& app, Run& run);
void add_eval_command(CLI::App& app, Run& run);
void add_generate_command(CLI::App& app, Run& run);
void add_score_command(CLI::App& app, Run& run);
void add_quantize_command(CLI::App& app, Run& run);
void add_export_command(CLI::App& app, Run& run);
void add_bench_command(CLI::App& app, Run& run);
void add_doctor_command(CLI::App& app, Run& run);

}  // namespace qshard
