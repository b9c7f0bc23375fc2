#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "spec/model_config.h"

namespace qshard {

/// Rotary positions of one RopeConfig, ready to make tables of cosines and sines.
struct RopeTable {
    std::vector<float> inverse_frequencies;  ///< [rotary_width / 2]
    float attention_factor = 1.0f;           ///< multiplies both cosine and sine

    std::int64_t half_width() const {
        return static_cast<std::int64_t>(inverse_frequencies.size());
    }
    /// cos, sin [positions, rotary_width / 2] of positions first, first + 1, ... The angle is
    /// position * frequency in fp32, as Hugging Face computes it; its cosine and sine are correctly
    /// rounded but for rare ties, whatever the CPU.
    void fill(std::int64_t first, std::span<float> cos, std::span<float> sin) const;
};

/// Frequencies for a document of `length` tokens. Formulas: transformers' modeling_rope_utils.py,
/// evaluated in double and rounded once. UserError if the parameters make no sense.
RopeTable make_rope(const RopeConfig& config, std::int64_t length);

/// Whether a document of `length` tokens has other frequencies than short ones. Only "longrope",
/// whose long documents share one set, and "dynamic", where every length has its own, ever do:
/// beyond original_max_positions.
bool is_stretched(const RopeConfig& config, std::int64_t length);

}  // namespace qshard
