#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "spec/layout.h"

namespace qshard {

struct StoreRequest {
    std::filesystem::path model, store;
    std::optional<Quantization> quantization;  ///< nothing: as the model is, nf4 if not quantized
    bool double_quant = true;
    DType plain_dtype = DType::kBF16;
    int threads = 1;
    std::string made_by;
};

struct StoreResult {
    Quantization quantization = Quantization::kNf4;
    std::int64_t weights = 0;
    std::uint64_t bytes = 0;  ///< of the units
    double seconds = 0;
    std::vector<std::string> notes;  ///< what a user should know of the model's files
};

/// Makes a weight store of a model, unit by unit. UserError if the model is one already.
StoreResult make_store(
    const StoreRequest& request,
    const std::function<void(std::size_t units_done, std::size_t units)>& progress);

}  // namespace qshard
