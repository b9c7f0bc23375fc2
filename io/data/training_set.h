#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "spec/batch.h"

namespace qshard {

struct BatchOptions {
    std::int64_t max_length = 512;  ///< tokens of one row
    bool packing = true;            ///< several documents a row; else one
    bool shuffle = true;
    std::uint64_t seed = 42;
    std::int64_t micro_batch_size = 2;    ///< rows in a slot
    std::int64_t global_batch_size = 16;  ///< rows in a step; a multiple of micro_batch_size
};

/// The steps of training on a split.
///
/// Documents are laid into rows once (in windows of a shuffled order); each epoch shuffles the
/// rows. So every epoch has the same number of steps, and every document is seen exactly as often
/// as its weight says. Rows of a slot lie end to end without padding; targets are shifted inside
/// each document, whose last position has kIgnoreIndex. The last slot and step of an epoch may be
/// smaller. Steps beyond the first epoch go on with the next one. step() and slot() may be called
/// from many threads; the order of an epoch is computed once and kept.
class TrainingSet : public BatchSource {
  public:
    /// UserError if the batch sizes do not fit each other. Documents longer than max_length:
    /// BugError.
    TrainingSet(Split split, const BatchOptions& options);

    std::int64_t steps_per_epoch() const override;
    StepInfo step(std::int64_t step) const override;
    Slot slot(std::int64_t step, std::int64_t index) const override;
    std::string sha256() const override { return sha256_; }

    const SplitStats& stats() const { return split_.stats; }
    const std::vector<EncodedRow>& documents() const { return split_.rows; }
    /// Rows of an epoch, and the share of their room (rows x max_length) that tokens fill.
    std::int64_t rows_per_epoch() const { return static_cast<std::int64_t>(rows_.size()); }
    double packing_efficiency() const;

  private:
    struct Epoch {
        std::int64_t index = -1;
        std::vector<std::int64_t> order;
    };
    std::shared_ptr<const Epoch> epoch(std::int64_t index) const;
    std::vector<std::int64_t> documents_by_source() const;
    std::vector<std::int64_t> documents_of_an_epoch() const;

    Split split_;
    BatchOptions options_;
    std::vector<std::vector<std::int64_t>> rows_;  ///< documents of each row
    std::vector<std::int64_t> row_tokens_, row_supervised_;
    std::string sha256_;
    mutable std::mutex mutex_;
    /// Shared, because a slot may still read an epoch while another thread moves on to the next.
    mutable std::shared_ptr<const Epoch> cached_;
};

/// Documents in their order, as many a slot as fit `capacity` tokens (at least one): for
/// evaluation.
std::vector<Slot> evaluation_slots(std::span<const EncodedRow> rows, std::int64_t capacity);

/// Appends a document to a slot, targets shifted.
void append_document(Slot& slot, const EncodedRow& row);

}  // namespace qshard
