#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint/state.h"

namespace qshard::inspect {

enum class Kind { kCheckpoint, kForeignCheckpoint, kPeftFolder };

/// What a path on the command line denotes, loaded.
struct Subject {
    Kind kind = Kind::kCheckpoint;
    std::filesystem::path path;  ///< the file or PEFT folder that was loaded
    CheckpointState state;       ///< of a PEFT folder: the adapter and its configuration only
    std::uintmax_t bytes = 0;    ///< of the file, or of the adapter's weights
    std::string sha256;          ///< the same
    std::vector<std::string>
        rejected;  ///< newer generations that were passed over, with the reason

    std::string kind_text() const;
};

/// An .h5 file, a PEFT folder (or a file of one), a checkpoints folder or an output folder (of both
/// the newest usable checkpoint, else the adapter folder). UserError, naming the path, if it is
/// none of them or broken.
Subject load_subject(const std::filesystem::path& path);

/// A message that begins with the path it is about, unless it names it already.
std::string naming(const std::filesystem::path& path, const std::string& message);

/// The folder of PEFT's that a path denotes: output folders have one inside, and the files of one
/// stand for it. Other paths as they are.
std::filesystem::path adapter_folder_of(const std::filesystem::path& path);

/// The folder that holds step-*.h5 files: `path` itself or its checkpoints/.
std::optional<std::filesystem::path> checkpoints_folder(const std::filesystem::path& path);

/// "self_attn.q_proj" of ...layers.3.self_attn.q_proj.lora_A.weight, and the layer number (-1
/// outside layers).
struct TensorPlace {
    std::int64_t layer = -1;
    std::string target;
};
TensorPlace place_of(const std::string& key);

}  // namespace qshard::inspect
