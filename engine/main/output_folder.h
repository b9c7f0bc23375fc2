#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "io/checkpoint/store.h"
#include "io/report/run_status.h"

/// What a run finds in its output folder before it starts, and which checkpoint it goes on from.
namespace qshard {

struct FoundRun {
    std::optional<RunStatus> status;             ///< nothing if there is none, or a damaged one
    std::optional<LoadedCheckpoint> checkpoint;  ///< to go on from
    /// --resume PATH named the checkpoint: what is newer in the folder is to be set aside.
    bool chosen = false;
    /// Then the folder's own newest, if PATH leads elsewhere: it must be of the same run.
    std::optional<LoadedCheckpoint> own;
};

/// Looks for what `resume` (auto | never | a checkpoint file | a folder with some) asks for, and
/// removes temporary files of killed starts; the folder must be locked. say() gets a line for
/// people for each file that is passed over. UserError if a start would overwrite results:
/// checkpoints with "never", or an adapter, a report or a saved step without a checkpoint to go on
/// from. What a start leaves that was killed before its first checkpoint is no result.
FoundRun find_run(const std::filesystem::path& output, const std::string& resume,
                  const std::function<void(const std::string&)>& say);

/// Names a checkpoint for those that descend from it: "step 10, adapter 0123456789abcdef".
std::string lineage_name(const CheckpointState& state);

}  // namespace qshard
