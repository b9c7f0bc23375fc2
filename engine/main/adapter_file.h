#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "io/checkpoint/state.h"
#include "io/peft/embedding_copies.h"
#include "io/run/run_file.h"
#include "spec/adapter.h"
#include "spec/weights.h"

/// A trained adapter as users hand it over, and how it fits a model.
namespace qshard {

struct AdapterFile {
    std::filesystem::path path;  ///< the file or PEFT folder that was read
    CheckpointState state;       ///< of a PEFT folder: the adapter and its configuration only
    AdapterOptions options;      ///< select exactly the modules that it has
    std::optional<RunFile> run;  ///< that trained it, if recorded
    EmbeddingCopies copies;      ///< of a PEFT folder
};

/// Reads a PEFT folder, a checkpoint (.h5), or the adapter of an output folder: adapter/ in it,
/// else its newest usable checkpoint. UserError if it is none of them or broken.
AdapterFile read_adapter_file(const std::filesystem::path& path);

/// The same for export, which wants the newest checkpoint of an output folder first.
AdapterFile read_newest_checkpoint(const std::filesystem::path& path);

/// Where the adapter's numbers go for this model. UserError naming both sides if it was made for
/// another model: modules the model has not, other shapes, or (checkpoints) other files; if it
/// lacks modules that its configuration chooses, or has an embedding that is not the model's. PEFT
/// folders do not record the files. Names are the adapter's own: one trained with a model that also
/// takes images ("model.language_model.") fits the text part alone, and the other way round.
AdapterLayout fit_adapter(const AdapterFile& adapter, const WeightReader& model);

/// The adapter's numbers in the layout's order.
std::vector<float> flat_values(const AdapterFile& adapter, const AdapterLayout& layout);

}  // namespace qshard
