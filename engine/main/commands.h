#pragma once

#include "main/command_line.h"

/// One function per subcommand of the program: declares its flags and what it does.
namespace qshard {

void add_train_command(Command program);
void add_data_command(Command program);
void add_eval_command(Command program);
void add_generate_command(Command program);
void add_score_command(Command program);
void add_plan_command(Command program);
void add_quantize_command(Command program);
void add_export_command(Command program);
void add_bench_command(Command program);
void add_doctor_command(Command program);

}  // namespace qshard
