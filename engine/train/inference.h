#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "model/head.h"
#include "model/weight_source.h"
#include "tensor/arena.h"

/// The model as users run it: every layer expanded once and kept, keys and values cached, several
/// sequences at a time. A row's numbers do not depend on what else is in the batch, so batching
/// never changes an answer.
///
/// Rotary positions of the kinds that depend on the length (model/rotary.h) are what transformers
/// gives a row alone: the prompt's are for the prompt's length, a new token's for the length that
/// it makes. Keys in the cache stay as they are, but for models that renew them (Phi-3): once an
/// answer grows beyond longrope's original length, their whole text is computed again with the long
/// factors.
namespace qshard {

struct InferenceOptions {
    DType compute = DType::kBF16;
    std::int64_t max_sequences = 1;  ///< in one batch
    std::int64_t max_context = 512;  ///< tokens of one sequence, prompt and answer
    std::int64_t max_tokens = 512;   ///< in one forward pass
};

/// temperature 0: the most likely token (the lowest id of equals). Otherwise softmax(logits /
/// temperature), cut to the top_k most likely (0: all), then to the smallest set whose probability
/// reaches top_p; drawn by Philox(seed, kSampling, row).uniform(position), so a row's text depends
/// on nothing else.
struct SamplingOptions {
    double temperature = 0;
    double top_p = 1;
    std::int64_t top_k = 0;
    std::uint64_t seed = 42;
    std::int64_t max_new_tokens = 64;
    std::vector<std::int32_t> stop_ids;  ///< end a sequence; not part of the answer
};

class Inference {
  public:
    /// Reserves its memory in `arena`. `adapter` may be null.
    Inference(Backend& backend, const ModelConfig& config, const ModelLayout& layout,
              const AdapterLayout* adapter, const InferenceOptions& options, Arena& arena);
    /// After the arena is allocated: expands every unit once. Collective if the source is gathered.
    /// An embedding that the adapter has trained is read where it is, until the next start().
    void start(WeightSource& source, const float* adapter_values);

    /// Answers of the prompts, in their order; `first_row` numbers them for sampling. `on_done` is
    /// called when one ends.
    std::vector<std::vector<std::int32_t>> generate(
        std::span<const std::vector<std::int32_t>> prompts, const SamplingOptions& sampling,
        std::int64_t first_row = 0, const std::function<void(std::int64_t row)>& on_done = {});

    /// Calls visit(position, logits[V]) for every position of the text from `first` on, except the
    /// last: fp32 after scale and soft cap. At most max_context tokens.
    void score(
        std::span<const std::int32_t> tokens,
        const std::function<void(std::int64_t position, std::span<const float> logits)>& visit,
        std::int64_t first = 0);

  private:
    struct Active;
    /// One pass over new tokens; the result is the last block's output, fp32 [N, C].
    Tensor forward(TokenContext& context, std::span<const std::int32_t> tokens);
    std::span<const float> logits_of(Tensor x, std::span<const std::int32_t> rows);
    /// Makes the whole text pending if its cached keys are for a shorter one.
    void renew_keys(Active& sequence) const;
    void run_batch(std::vector<Active>& batch, const SamplingOptions& sampling);
    KvCache cache(std::int64_t layer) const;
    RotaryLimits rotary_limits() const { return {options_.max_context, options_.max_tokens}; }

    Backend& backend_;
    const ModelConfig& config_;
    const ModelLayout& layout_;
    const AdapterLayout* adapter_;
    const InferenceOptions options_;
    Arena& arena_;
    const AdapterNeeds needs_;
    std::vector<Arena::Handle> layer_packs_;
    Arena::Handle head_packs_ = 0, embed_ = 0, positions_ = 0, cache_ = 0, x_ = 0, work_ = 0,
                  ropes_ = 0, row_factors_ = 0;
    std::size_t x_stride_ = 0, cache_stride_ = 0;
    std::vector<BlockPacks> blocks_;
    HeadPacks head_packs_ready_;
    EmbeddingTables tables_;
    std::unique_ptr<Decoder> decoder_;
    std::unique_ptr<Head> head_;
    std::vector<float> host_logits_;
};

/// The next token by `sampling` from logits[V]; `row` and `position` select the random number.
std::int32_t sample(std::span<const float> logits, const SamplingOptions& sampling,
                    std::int64_t row, std::int64_t position);

}  // namespace qshard
