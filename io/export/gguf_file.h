#pragma once

#include <filesystem>

#include "io/export/weight_stream.h"
#include "io/formats/gguf_writer.h"

namespace qshard {

/// Writes weights as a GGUF model below `metadata` (gguf_metadata.h): matrices in the dtype of
/// `options`, vectors in fp32. The file appears whole or not at all, and only if it reads back as
/// the same model (UserError if the architecture cannot express it).
void write_gguf_model(const std::filesystem::path& file, const WeightReader& weights,
                      GgufHeader metadata, const ExportOptions& options);

}  // namespace qshard
