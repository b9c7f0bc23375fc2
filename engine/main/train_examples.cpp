#include "main/train_examples.h"

#include <algorithm>

#include "backend/device_arena.h"
#include "comm/agree.h"
#include "main/inference_session.h"
#include "train/inference.h"

namespace qshard {
namespace {

constexpr std::int64_t kExamples = 3;

/// The model with the trainer's base, expanded for answering.
class Answers {
  public:
    Answers(Trainer& trainer, Backend& backend, const TextModel& model, bool tuned,
            const InferenceOptions& options)
        : trainer_(trainer),
          tuned_(tuned),
          arena_(backend),
          inference_(backend, model.config(), trainer.layout(),
                     tuned ? &trainer.adapter_layout() : nullptr, options, arena_) {}

    std::size_t bytes() const { return arena_.total_bytes(); }
    void start() {
        arena_.commit();
        inference_.start(trainer_.weights(), tuned_ ? trainer_.adapter_values() : nullptr);
    }
    Inference& inference() { return inference_; }

  private:
    Trainer& trainer_;
    const bool tuned_;
    DeviceArena arena_;
    Inference inference_;
};

}  // namespace

std::vector<EncodedRow> choose_examples(std::span<const EncodedRow> rows) {
    std::vector<EncodedRow> chosen;
    const std::int64_t count = std::ssize(rows), wanted = std::min(kExamples, count);
    for (std::int64_t i = 0; i < wanted; ++i) {
        const EncodedRow& row = rows[static_cast<std::size_t>(i * count / wanted)];
        if (!row.prompt().empty()) chosen.push_back(row);
    }
    return chosen;
}

std::vector<Report::Example> answer_examples(Trainer& trainer, Backend& backend,
                                             Communicator& group, const TextModel& model,
                                             std::span<const EncodedRow> rows,
                                             std::int64_t max_new_tokens,
                                             std::size_t memory_limit) {
    std::vector<std::vector<std::int32_t>> prompts;
    std::vector<Report::Example> examples;
    InferenceOptions options;
    options.compute = trainer.compute();
    options.max_sequences = std::ssize(rows);
    for (const EncodedRow& row : rows) {
        prompts.push_back(row.prompt());
        examples.push_back({decode_text(model, prompts.back(), true),
                            decode_text(model, row.completion(), false),
                            {},
                            {}});
        options.max_context =
            std::max(options.max_context, std::ssize(prompts.back()) + max_new_tokens);
    }
    options.max_context = std::min(options.max_context, context_limit(model.config()));
    options.max_tokens = std::max(options.max_sequences, options.max_context);
    SamplingOptions sampling;
    sampling.max_new_tokens = max_new_tokens;
    sampling.stop_ids = model.stop_ids;
    for (const bool tuned : {false, true}) {
        if (prompts.empty()) break;
        Answers answers(trainer, backend, model, tuned, options);
        const std::size_t needed = trainer.planned_bytes() + answers.bytes();
        const int fits = memory_limit == 0 || needed <= memory_limit ? 1 : 0;
        const std::vector<int> all = group.all_gather_value(fits);
        if (std::find(all.begin(), all.end(), 0) != all.end()) return {};
        agree(group, "answering examples", [&] { answers.start(); });
        if (group.rank() != 0) continue;
        const auto texts = answers.inference().generate(prompts, sampling);
        for (std::size_t i = 0; i < texts.size(); ++i)
            (tuned ? examples[i].after : examples[i].before) = decode_text(model, texts[i], false);
    }
    return examples;
}

}  // namespace qshard
