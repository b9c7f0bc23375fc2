#pragma once

#include <filesystem>
#include <memory>

#include "io/formats/gguf.h"
#include "io/formats/model_folder.h"

/// Where the files of a GGUF model are: one, or several named NAME-00001-of-00005.gguf as
/// llama-gguf-split does it, of which the first stands for all.
namespace qshard {

/// UserError as GgufFile() throws it, and for a file that is missing. With a log, notes what is
/// read.
std::shared_ptr<const GgufFile> open_gguf_files(const std::filesystem::path& first,
                                                const std::shared_ptr<ReadLog>& log = nullptr);

/// Those that a weight store kept by such a log.
std::shared_ptr<const GgufFile> open_kept_gguf_files(const ModelFolder& kept);

}  // namespace qshard
