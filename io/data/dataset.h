#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/data/encode.h"
#include "io/data/split_stats.h"

namespace qshard {

/// A data file and how often an epoch takes each of its rows. A fraction is taken by drawing rows
/// once, the same in every epoch: 2.5 takes all rows twice and half of them a third time.
struct DataSource {
    std::string path;
    double weight = 1;
};

struct DatasetOptions {
    std::vector<DataSource> train;
    /// Rows of train (by whole rows, drawn by the seed before weights apply) to hold back; in [0,
    /// 1).
    double validation_fraction = 0;
    std::string validation_file;  ///< instead of a fraction
    std::string test_file;
    std::uint64_t seed = 42;
    bool may_be_empty = false;  ///< no error if no row of a split is left
};

/// Documents, or preference pairs; never both.
struct Split {
    std::vector<EncodedRow> rows;
    std::vector<EncodedPair> pairs;
    std::vector<double> weights;  ///< of each row or pair
    bool own_weights = false;     ///< some come from the rows, not from their files
    SplitStats stats;
};

struct Dataset {
    Split train, validation, test;
};

/// Reads and encodes everything. The same on every rank: a function of files, tokenizer, template
/// and options. UserError for bad input, for a fraction that leaves nothing to train on, for a
/// split of documents and pairs, and if no row of train is left, or of a validation or test split
/// that was asked for.
Dataset load_dataset(const DatasetOptions& options, const RowEncoder& encoder);

/// The rows of a file alone, each once; `name` ("validation", "test") is the split that they are.
/// UserError as load_dataset's.
Split load_split(const std::string& path, const std::string& name, const RowEncoder& encoder,
                 bool may_be_empty = false);

/// Which of `count` rows a validation fraction takes: round(fraction * count), at least one and not
/// all (if count > 1).
std::vector<bool> draw_validation(std::int64_t count, double fraction, std::uint64_t seed);

/// SHA-256 over the documents of a split without pairs.
std::string sha256_of(const Split& split);

}  // namespace qshard
