#pragma once

#include "io/run/run_file.h"

namespace qshard {

/// With adapter.init_from: the keys of the adapter section that neither the run file nor an
/// override names (RunFile::given) take the values that the named adapter was trained with: r,
/// alpha, dropout, targets, layers, patterns, use_dora, use_rslora, modules_to_save, bias.
/// UserError if a named key that decides the shape has another value than the adapter, with both.
void take_initial_adapter(RunFile& run);

}  // namespace qshard
