#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/adapter_dropout.h"

namespace qshard {

/// The tokens of one call: documents of some slots, or the new tokens of sequences with a cache.
struct TokenContext {
    std::int64_t tokens = 0;              ///< N
    std::vector<std::int32_t> positions;  ///< [N]
    std::vector<AttentionSequence> sequences;
    std::vector<std::int64_t> lengths;  ///< [sequences] tokens of each one's whole document
    /// [ropes] row of every token in the model's rotary tables: of Rotary::place(). Empty where it
    /// is the position.
    std::vector<std::vector<std::int32_t>> rope_rows;
    std::vector<std::int64_t> slot_begin = {0};  ///< [slots + 1] first token of each slot, then N
    std::optional<AdapterDropout> dropout;

    /// Appends a slot, documents laid end to end: positions restart at each, queries and keys are
    /// the same rows.
    void add_slot(std::span<const std::int32_t> document_begin);
    /// Appends `count` new tokens of a sequence of which `cached` are in rows `cache_row`, ... of a
    /// cache. `length`: tokens of its document.
    void add_sequence(std::int64_t count, std::int64_t cache_row, std::int64_t cached,
                      std::int64_t length);
};

}  // namespace qshard
