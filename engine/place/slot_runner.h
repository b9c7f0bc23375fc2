#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/decoder.h"
#include "model/head.h"
#include "model/weight_source.h"
#include "spec/batch.h"
#include "tensor/arena.h"

/// Runs slots through the decoder: the task list of a rank. Layer-major within a group of slots: a
/// unit is acquired and expanded once per direction and group, whatever the number of slots in it.
/// Within a group slots are computed in batches, laid end to end in one call: rows do not depend on
/// one another, and what sums over rows, gradients, is told where slots begin.
namespace qshard {

struct RunnerOptions {
    DType compute = DType::kBF16;
    std::int64_t max_tokens = 0;       ///< of one slot
    std::int64_t max_group_slots = 1;  ///< slots that go through the layers together
    std::int64_t max_batch_slots = 1;  ///< those of them that one call computes
    std::int64_t recomputed_layers =
        0;  ///< layers 0 .. n-1 keep only their input and are computed again to go back
    bool backward = true;
};

/// Where a group of slots is in a run.
struct SlotPosition {
    std::uint64_t seed = 0;
    std::int64_t step = 0;   ///< of the data
    std::int64_t first = 0;  ///< slot of the step
};

/// Seconds since the last take_seconds(), of the device if it computes beside its host; acquire is
/// waiting for weights, expand dequantizing them.
struct RunnerSeconds {
    double forward = 0, head = 0, backward = 0, acquire = 0, expand = 0;
};

class SlotRunner {
  public:
    /// Reserves its memory in `arena` (allocated later); nothing is allocated on the device after
    /// that. `adapter` may be null: then there is no backward.
    SlotRunner(Backend& backend, const ModelConfig& config, const ModelLayout& layout,
               const AdapterLayout* adapter, const RunnerOptions& options, Arena& arena);
    /// Once, after the arena is allocated. adapter_values: the flat vector on the backend.
    void start(WeightSource& source, const float* adapter_values);
    /// Whenever the flat vector has changed: row factors of DoRA are made once for each of its
    /// values, when a layer's weights are there anyway.
    void adapter_changed();
    /// DoRA: the norms of the rows of W + scale B A of every target, in their order; they are the
    /// magnitudes that leave the base as it is. Collective if the source is gathered.
    std::vector<float> row_norms();
    /// Copies the base's values of the weights that the adapter trains into `flat`, a flat vector
    /// on the backend. Collective if the source is gathered.
    void copy_trained_weights(float* flat);

    /// Log-probabilities of the supervised positions of slot `index` of the group, in order.
    using Losses = std::function<void(std::size_t index, std::span<const float> logprob)>;
    /// Gradient of slot `index` for one range of the flat vector; ranges come in descending order,
    /// slots ascending within a range, empty ones of embedding and head never. The memory is reused
    /// by the next call.
    using Sink = std::function<void(std::size_t range, std::size_t index, const float* gradient)>;

    /// Forward and backward of a group of slots for a loss of sum(weight * log-probability).
    /// `where` selects the dropout masks; it is not read without dropout.
    void train(std::span<const Slot> slots, const SlotPosition& where, float weight,
               const Losses& losses, const Sink& sink);
    /// Forward only.
    void evaluate(std::span<const Slot> slots, const Losses& losses);

    /// The units that a group of slots goes through, in order.
    std::vector<std::size_t> units(bool backward) const;

    /// Waits for the device.
    RunnerSeconds take_seconds();

  private:
    /// Slots that are computed together.
    struct Batch {
        std::size_t first = 0;  ///< slot of the group
        TokenContext context;
        std::vector<std::int32_t> tokens;
        std::vector<std::int32_t> rows, targets;      ///< supervised positions
        std::vector<std::size_t> target_begin = {0};  ///< [count() + 1] of each slot among them

        std::size_t count() const { return context.slot_begin.size() - 1; }
    };
    /// Some slots of a batch, as the head sees them.
    struct HeadRows {
        std::size_t first = 0, count = 0;  ///< targets of the batch
        Tensor x;
        std::vector<std::int32_t> rows;  ///< of x
    };
    void begin(std::span<const Slot> slots, bool backward);
    Batch make_batch(std::span<const Slot> slots, std::size_t first) const;
    void set_dropout(const SlotPosition& where);
    void forward(bool keep);
    /// Goes back through the head too if there is a sink.
    void head(float weight, const Losses& losses, const Sink* sink);
    HeadRows head_rows(std::size_t index, std::size_t first, std::size_t last) const;
    void backward(const Sink& sink);
    void embedding_backward(const Sink& sink);
    float* gradient() const { return reinterpret_cast<float*>(arena_.at(gradient_)); }
    std::int64_t batch_tokens() const { return options_.max_batch_slots * options_.max_tokens; }
    std::int64_t max_batches() const {
        return (options_.max_group_slots + options_.max_batch_slots - 1) / options_.max_batch_slots;
    }
    RotaryLimits rotary_limits() const {
        return {options_.max_tokens, max_batches() * batch_tokens()};
    }
    /// fp32 [batch_tokens(), 1]; empty unless biases are trained.
    Tensor ones() const;
    /// fp32 [N, C] of a batch: input of a layer; of layer L: the output of the last. Forward only
    /// alternates between two buffers.
    Tensor input(std::size_t index, std::int64_t layer) const;
    Tape tape(std::size_t index, std::int64_t layer) const;
    BlockPacks prepare(std::int64_t layer, Directions directions);
    AdapterValues values() const;
    bool recomputed(std::int64_t layer) const { return layer < options_.recomputed_layers; }
    Directions backward_directions(std::int64_t layer) const {
        return {recomputed(layer), true, needs_.scaled};
    }

    Backend& backend_;
    const ModelConfig& config_;
    const ModelLayout& layout_;
    const AdapterLayout* adapter_;
    const RunnerOptions options_;
    Arena& arena_;
    const AdapterNeeds needs_;
    WeightSource* source_ = nullptr;
    const float* adapter_values_ = nullptr;
    std::vector<bool> factors_made_;  ///< of each layer

    Arena::Handle packs_ = 0, inputs_ = 0, tapes_ = 0, work_ = 0, gradient_ = 0, ropes_ = 0,
                  dropout_ = 0, row_factors_ = 0, ones_ = 0;
    std::size_t input_stride_ = 0, tape_stride_ = 0;
    std::int64_t gradient_stride_ = 0;  ///< elements of a layer's gradient, slot by slot
    std::unique_ptr<Decoder> decoder_;
    std::unique_ptr<Head> head_;
    float embed_scale_ = 1.0f;  ///< EmbeddingTables::scale of the forward
    std::vector<Batch> batches_;
    bool alternating_ = false;  ///< this pass is forward only
    std::unique_ptr<SectionClock> clock_;
};

}  // namespace qshard
