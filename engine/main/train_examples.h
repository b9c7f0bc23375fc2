#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/data/encode.h"
#include "io/report/html_report.h"
#include "main/session.h"
#include "train/trainer.h"

namespace qshard {

/// A few rows that have a prompt, spread over `rows`: what people are shown after training.
std::vector<EncodedRow> choose_examples(std::span<const EncodedRow> rows);

/// Greedy answers to the rows without and with the trainer's adapter. Empty if the model's expanded
/// layers do not fit `memory_limit` (0: none) beside what the trainer holds. Collective; rank 0 has
/// the answers.
std::vector<Report::Example> answer_examples(Trainer& trainer, Backend& backend,
                                             Communicator& group, const TextModel& model,
                                             std::span<const EncodedRow> rows,
                                             std::int64_t max_new_tokens, std::size_t memory_limit);

}  // namespace qshard
