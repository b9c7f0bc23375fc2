#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/data/row_keys.h"

/// What became of the rows of a split, for the screen at the start and for `qshard data`.
namespace qshard {

/// Rows of one fate: how many, and where the first of them stand.
struct RowPlaces {
    std::int64_t count = 0;
    std::vector<std::string> places;  ///< "train.jsonl:1207", of the first kMost
    static constexpr std::size_t kMost = 20;

    void add(const std::string& place);
    /// "train.jsonl:3, train.jsonl:9 and 12 more", with at most `most` places.
    std::string examples(std::size_t most) const;
};

struct SplitStats {
    std::int64_t rows = 0;  ///< documents or pairs kept
    std::int64_t tokens = 0;
    std::int64_t supervised = 0;  ///< tokens that carry loss
    std::int64_t longest = 0;     ///< tokens, of the rows kept

    RowPlaces truncated;     ///< kept, but cut to max_length
    RowPlaces skipped;       ///< dropped because they are longer (overlong: skip)
    RowPlaces answer_cut;    ///< dropped because what carries loss lies beyond max_length
    RowPlaces without_loss;  ///< dropped because no token carries loss
    RowPlaces weightless;    ///< dropped because their own weight is 0

    std::int64_t longest_given = 0;    ///< tokens of the longest row before any was cut
    std::int64_t supervised_lost = 0;  ///< tokens with loss that were cut off or skipped
    RowNotes notes;                    ///< of the rows kept: what nothing reads, and the like

    std::int64_t rows_read() const;
};

/// Sentences about what a user would want to know before training: a twentieth of the rows, or of
/// the tokens that carry loss, that data.max_length takes away, or rows without loss. They name
/// `split` ("data.train"), rows, and what to do. `max_positions`: the longest data.max_length that
/// the model can take, 0 if it names none.
std::vector<std::string> data_warnings(const SplitStats& stats, const std::string& split,
                                       std::int64_t max_length, std::int64_t max_positions);

/// A table of what became of the rows, a line each: what, how many, where the first ones stand.
std::string fate_table(const SplitStats& stats);

}  // namespace qshard
