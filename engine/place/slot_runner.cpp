#include "place/slot_runner.h"

#include <algorithm>
#include <set>

#include "model/trained_weight.h"

namespace qshard {
namespace {

enum Section { kForward, kHead, kBackward, kAcquire, kExpand, kSections };

std::size_t pack_bytes(const Backend& backend, const ModelConfig& config, const ModelLayout& layout,
                       const AdapterLayout* adapter, const RunnerOptions& options) {
    std::size_t bytes = head_pack_bytes(backend, config, options.compute, options.backward);
    const bool unscaled = needs_of(adapter, options.backward).scaled;
    for (std::int64_t l = 0; l < config.layers; ++l) {
        const UnitLayout& unit = layout.units[layout.layer_unit(l)];
        const auto grow_for = [&](const Directions& directions) {
            bytes = std::max(
                bytes, block_pack_bytes(backend, unit, l, adapter, options.compute, directions));
        };
        grow_for({true, false, unscaled});
        if (options.backward) grow_for({l < options.recomputed_layers, true, unscaled});
    }
    return bytes;
}

}  // namespace

SlotRunner::SlotRunner(Backend& backend, const ModelConfig& config, const ModelLayout& layout,
                       const AdapterLayout* adapter, const RunnerOptions& options, Arena& arena)
    : backend_(backend),
      config_(config),
      layout_(layout),
      adapter_(adapter),
      options_(options),
      arena_(arena),
      needs_(needs_of(adapter, options.backward)),
      clock_(backend.make_section_clock(kSections)) {
    check(!options.backward || adapter != nullptr, "only an adapter can be trained");
    check(options.max_batch_slots <= options.max_group_slots, "a batch is a part of its group");
    const std::int64_t n = batch_tokens();
    const auto batches = static_cast<std::size_t>(max_batches());
    input_stride_ = Scratch::aligned(static_cast<std::size_t>(n * config.width) * sizeof(float));
    tape_stride_ = Scratch::aligned(tape_bytes(config, needs_, n, options.compute));
    const std::size_t kept =
        options.backward ? static_cast<std::size_t>(config.layers - options.recomputed_layers) : 0;
    const std::size_t inputs = options.backward ? static_cast<std::size_t>(config.layers + 1) : 2;
    const std::size_t backward_scratch =
        options.backward ? Decoder::backward_scratch_bytes(config, needs_, n, options.compute) : 0;
    packs_ =
        arena.reserve("expanded weights", pack_bytes(backend, config, layout, adapter, options));
    inputs_ = arena.reserve("block inputs", batches * inputs * input_stride_);
    tapes_ = arena.reserve("kept activations", batches * kept * tape_stride_);
    work_ = arena.reserve(
        "working activations and logits",
        std::max(tape_stride_ + backward_scratch,
                 head_scratch_bytes(backend, config, n, options.compute, options.backward)));
    if (options.backward) {
        for (std::int64_t l = 0; l < config.layers; ++l) {
            const std::int64_t count = adapter->range_count(AdapterLayout::layer_range(l));
            gradient_stride_ = std::max(gradient_stride_, (count + 15) / 16 * 16);
        }
        const std::int64_t elements =
            std::max(adapter->largest_range_count(), options.max_batch_slots * gradient_stride_);
        gradient_ = arena.reserve(
            adapter->weights.empty() ? "gradient of one layer" : "gradient of one layer or module",
            static_cast<std::size_t>(elements) * sizeof(float));
    }
    if (options.backward && adapter->bias_count() > 0)
        ones_ = arena.reserve("ones", static_cast<std::size_t>(n) * sizeof(float));
    if (options.backward && adapter->options.dropout > 0) {
        dropout_ = arena.reserve("adapter dropout",
                                 dropout_bytes(config, *adapter, n, options.compute).total());
    }
    if (adapter != nullptr && adapter->rows > 0) {
        row_factors_ = arena.reserve("row factors of the adapter",
                                     static_cast<std::size_t>(adapter->rows) * sizeof(float));
    }
    ropes_ = arena.reserve("rotary tables", Rotary::bytes(config, rotary_limits()));
}

void SlotRunner::start(WeightSource& source, const float* adapter_values) {
    source_ = &source;
    adapter_values_ = adapter_values;
    decoder_ = std::make_unique<Decoder>(
        backend_, config_, Rotary(backend_, config_, rotary_limits(), arena_.at(ropes_)),
        options_.compute);
    head_ = std::make_unique<Head>(backend_, config_, options_.compute);
    if (const Tensor filled = ones(); !filled.empty()) {
        const std::vector<float> values(static_cast<std::size_t>(batch_tokens()), 1.0f);
        backend_.upload(filled.data(), values.data(), filled.bytes());
    }
    adapter_changed();
}

void SlotRunner::adapter_changed() {
    factors_made_.assign(static_cast<std::size_t>(config_.layers),
                         adapter_ == nullptr || adapter_->rows == 0);
}

AdapterValues SlotRunner::values() const {
    const bool dora = adapter_ != nullptr && adapter_->rows > 0;
    return {adapter_values_, dora ? reinterpret_cast<float*>(arena_.at(row_factors_)) : nullptr};
}

Tensor SlotRunner::ones() const {
    if (!options_.backward || adapter_->bias_count() == 0) return {};
    return {arena_.at(ones_), DType::kF32, {batch_tokens(), 1}};
}

std::vector<float> SlotRunner::row_norms() {
    check(adapter_ != nullptr && adapter_->rows > 0, "the adapter has magnitudes");
    std::vector<std::size_t> order;
    for (std::int64_t l = 0; l < config_.layers; ++l) order.push_back(layout_.layer_unit(l));
    source_->expect(order);
    for (std::int64_t l = 0; l < config_.layers; ++l) {
        const std::size_t unit = layout_.layer_unit(l);
        measure_rows(backend_, layout_.units[unit], source_->acquire(unit), l, *adapter_, values(),
                     RowMeasure::kNorm);
        source_->release(unit);
    }
    std::vector<float> norms(static_cast<std::size_t>(adapter_->rows));
    backend_.download(norms.data(), values().row_factors, norms.size() * sizeof(float));
    adapter_changed();
    return norms;
}

void SlotRunner::copy_trained_weights(float* flat) {
    const auto unit_of = [this](const TrainedWeight& weight) {
        if (weight.range == AdapterLayout::kEmbedRange) return layout_.embed_unit();
        if (weight.range == adapter_->head_range()) return layout_.head_unit();
        return layout_.layer_unit(static_cast<std::int64_t>(weight.range - 1));
    };
    std::set<std::size_t> units;
    for (const TrainedWeight& weight : adapter_->weights) units.insert(unit_of(weight));
    const std::vector<std::size_t> order(units.begin(), units.end());
    source_->expect(order);
    for (const std::size_t unit : order) {
        const std::byte* bytes = source_->acquire(unit);
        for (const TrainedWeight& weight : adapter_->weights) {
            if (unit_of(weight) != unit) continue;
            const bool tied = weight.role == Role::kHead && layout_.tied_head;
            const Field& field = layout_.units[unit].at(tied ? Role::kEmbed : weight.role);
            backend_.copy(
                view_of(field, bytes).plain,
                Tensor(flat + weight.tensor.offset, DType::kF32, {weight.tensor.count()}));
        }
        source_->release(unit);
    }
}

void SlotRunner::train(std::span<const Slot> slots, const SlotPosition& where, float weight,
                       const Losses& losses, const Sink& sink) {
    begin(slots, true);
    set_dropout(where);
    forward(true);
    head(weight, losses, &sink);
    backward(sink);
    if (adapter_->trains_embedding()) embedding_backward(sink);
}

/// Batches go through the layers one after the other, so that they share the memory.
void SlotRunner::set_dropout(const SlotPosition& where) {
    const double rate = adapter_->options.dropout;
    if (rate == 0) return;
    for (Batch& batch : batches_) {
        const DropoutMask mask{
            where.seed, static_cast<std::uint32_t>(where.step),
            static_cast<std::uint32_t>(where.first + static_cast<std::int64_t>(batch.first)), 0,
            DropoutMask::dropped_at(rate)};
        batch.context.dropout =
            AdapterDropout{mask, arena_.at(dropout_),
                           dropout_bytes(config_, *adapter_, batch_tokens(), options_.compute)};
    }
}

void SlotRunner::evaluate(std::span<const Slot> slots, const Losses& losses) {
    begin(slots, false);
    forward(false);
    head(0, losses, nullptr);
}

void SlotRunner::begin(std::span<const Slot> slots, bool backward) {
    check(static_cast<std::int64_t>(slots.size()) <= options_.max_group_slots,
          "the group was planned for these slots");
    alternating_ = !backward || !options_.backward;
    batches_.clear();
    const auto each = static_cast<std::size_t>(options_.max_batch_slots);
    for (std::size_t first = 0; first < slots.size(); first += each) {
        batches_.push_back(
            make_batch(slots.subspan(first, std::min(each, slots.size() - first)), first));
        decoder_->rotary().place(batches_.back().context,
                                 (std::ssize(batches_) - 1) * batch_tokens());
    }
    source_->expect(units(backward));
}

SlotRunner::Batch SlotRunner::make_batch(std::span<const Slot> slots, std::size_t first) const {
    Batch batch;
    batch.first = first;
    for (const Slot& slot : slots) {
        const std::int64_t begin = batch.context.tokens;
        batch.context.add_slot(slot.document_begin);
        const std::int64_t tokens = batch.context.tokens - begin;
        check(tokens == std::ssize(slot.tokens) && tokens <= options_.max_tokens &&
                  slot.targets.size() == slot.tokens.size(),
              "a slot is consistent and fits the plan");
        batch.tokens.insert(batch.tokens.end(), slot.tokens.begin(), slot.tokens.end());
        for (std::size_t n = 0; n < slot.targets.size(); ++n) {
            if (slot.targets[n] == kIgnoreIndex) continue;
            check(slot.targets[n] >= 0 && slot.targets[n] < config_.vocabulary,
                  "targets lie in the vocabulary");
            batch.rows.push_back(static_cast<std::int32_t>(begin + static_cast<std::int64_t>(n)));
            batch.targets.push_back(slot.targets[n]);
        }
        batch.target_begin.push_back(batch.rows.size());
    }
    return batch;
}

RunnerSeconds SlotRunner::take_seconds() {
    const std::vector<double> seconds = clock_->take();
    return {seconds[kForward], seconds[kHead], seconds[kBackward], seconds[kAcquire],
            seconds[kExpand]};
}

std::vector<std::size_t> SlotRunner::units(bool backward) const {
    std::vector<std::size_t> order{layout_.embed_unit()};
    for (std::int64_t l = 0; l < config_.layers; ++l) order.push_back(layout_.layer_unit(l));
    order.push_back(layout_.head_unit());
    for (std::int64_t l = config_.layers - 1; backward && l >= 0; --l)
        order.push_back(layout_.layer_unit(l));
    return order;
}

Tensor SlotRunner::input(std::size_t index, std::int64_t layer) const {
    const std::size_t per_slot =
        options_.backward ? static_cast<std::size_t>(config_.layers + 1) : 2;
    const auto place = static_cast<std::size_t>(alternating_ ? layer % 2 : layer);
    return {arena_.at(inputs_) + (index * per_slot + place) * input_stride_,
            DType::kF32,
            {batches_[index].context.tokens, config_.width}};
}

Tape SlotRunner::tape(std::size_t index, std::int64_t layer) const {
    std::byte* memory = arena_.at(work_);
    if (!alternating_ && !recomputed(layer)) {
        const std::int64_t kept = config_.layers - options_.recomputed_layers;
        const auto place = static_cast<std::size_t>(static_cast<std::int64_t>(index) * kept +
                                                    layer - options_.recomputed_layers);
        memory = arena_.at(tapes_) + place * tape_stride_;
    }
    return make_tape(config_, needs_, batches_[index].context.tokens, options_.compute, memory);
}

BlockPacks SlotRunner::prepare(std::int64_t layer, Directions directions) {
    const std::size_t unit = layout_.layer_unit(layer);
    const std::byte* bytes = nullptr;
    {
        const InSection section(*clock_, kAcquire);
        bytes = source_->acquire(unit);
    }
    const InSection section(*clock_, kExpand);
    if (!factors_made_[static_cast<std::size_t>(layer)]) {
        measure_rows(backend_, layout_.units[unit], bytes, layer, *adapter_, values(),
                     RowMeasure::kFactor);
        factors_made_[static_cast<std::size_t>(layer)] = true;
    }
    BlockPacks packs = prepare_block(backend_, layout_.units[unit], bytes, layer, adapter_,
                                     values(), options_.compute, directions, arena_.at(packs_));
    source_->release(unit);
    return packs;
}

void SlotRunner::forward(bool keep) {
    const std::size_t unit = layout_.embed_unit();
    {
        const InSection section(*clock_, kAcquire);
        const std::byte* bytes = source_->acquire(unit);
        const EmbeddingTables tables = embedding_tables(
            config_, layout_.units[unit], bytes, trained_embedding(adapter_, adapter_values_));
        embed_scale_ = tables.scale;
        for (std::size_t i = 0; i < batches_.size(); ++i) {
            embed_tokens(backend_, tables, batches_[i].tokens, batches_[i].context.positions,
                         input(i, 0), input(i, 1));
        }
        source_->release(unit);
    }
    check(!keep || !alternating_, "a forward whose activations are kept goes back");
    for (std::int64_t l = 0; l < config_.layers; ++l) {
        const BlockPacks packs = prepare(l, {true, false, keep && needs_.scaled});
        const InSection section(*clock_, kForward);
        for (std::size_t i = 0; i < batches_.size(); ++i) {
            Tape kept = tape(i, l);
            decoder_->forward(l, packs, batches_[i].context, input(i, l), input(i, l + 1), kept);
        }
    }
}

void SlotRunner::head(float weight, const Losses& losses, const Sink* sink) {
    const bool backward = sink != nullptr;
    const std::size_t unit = layout_.head_unit();
    const std::byte* bytes = nullptr;
    {
        const InSection section(*clock_, kAcquire);
        bytes = source_->acquire(unit);
    }
    HeadPacks packs;
    {
        const InSection section(*clock_, kExpand);
        packs = prepare_head(backend_, config_, layout_.units[unit], bytes, adapter_,
                             adapter_values_, options_.compute, backward, arena_.at(packs_));
        source_->release(unit);
    }
    const InSection section(*clock_, kHead);
    HeadGradient trained;
    const std::size_t range = backward ? adapter_->head_range() : 0;
    const bool trains = backward && adapter_->range_count(range) > 0;
    if (trains) {
        const std::int64_t first = adapter_->range_begin[range];
        trained = {trained_in_head(adapter_, Role::kHead, gradient(), first),
                   trained_in_head(adapter_, Role::kFinalNormBias, gradient(), first), ones()};
    }
    for (std::size_t i = 0; i < batches_.size(); ++i) {
        const Batch& batch = batches_[i];
        // What is trained of the head has a gradient of each slot.
        const std::size_t each = trains ? 1 : batch.count();
        for (std::size_t s = 0; s < batch.count(); s += each) {
            const HeadRows part = head_rows(i, s, s + each);
            const std::vector<float> derivative(backward ? part.count : 0, weight);
            std::vector<float> logprob(part.count);
            head_->run(packs, part.x, part.rows,
                       std::span(batch.targets).subspan(part.first, part.count), derivative,
                       logprob, part.x, trained, arena_.at(work_));
            if (backward && part.count == 0) {
                backend_.fill_zero(part.x);
                if (trains)
                    backend_.fill_zero({gradient(), DType::kF32, {adapter_->range_count(range)}});
            }
            for (std::size_t one = s; one < s + each; ++one) {
                const std::size_t begin = batch.target_begin[one];
                losses(batch.first + one,
                       std::span(logprob).subspan(begin - part.first,
                                                  batch.target_begin[one + 1] - begin));
            }
            if (trains) (*sink)(range, batch.first + s, gradient());
        }
    }
}

/// Slots first .. last - 1 of a batch.
SlotRunner::HeadRows SlotRunner::head_rows(std::size_t index, std::size_t first,
                                           std::size_t last) const {
    const Batch& batch = batches_[index];
    const std::int64_t begin = batch.context.slot_begin[first],
                       end = batch.context.slot_begin[last];
    HeadRows part;
    part.first = batch.target_begin[first];
    part.count = batch.target_begin[last] - part.first;
    part.x = input(index, config_.layers).row_range(begin, end - begin);
    for (const std::int32_t row : std::span(batch.rows).subspan(part.first, part.count))
        part.rows.push_back(static_cast<std::int32_t>(row - begin));
    return part;
}

void SlotRunner::embedding_backward(const Sink& sink) {
    const InSection section(*clock_, kBackward);
    const Tensor dtable = trained_embedding(adapter_, gradient());
    for (std::size_t i = 0; i < batches_.size(); ++i) {
        const Batch& batch = batches_[i];
        for (std::size_t s = 0; s < batch.count(); ++s) {
            const std::int64_t begin = batch.context.slot_begin[s],
                               count = batch.context.slot_begin[s + 1] - begin;
            embed_tokens_backward(
                backend_, config_, embed_scale_,
                std::span(batch.tokens)
                    .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
                input(i, config_.layers).row_range(begin, count), dtable);
            sink(AdapterLayout::kEmbedRange, batch.first + s, gradient());
        }
    }
}

void SlotRunner::backward(const Sink& sink) {
    for (std::int64_t l = config_.layers - 1; l >= 0; --l) {
        const BlockPacks packs = prepare(l, backward_directions(l));
        const InSection section(*clock_, kBackward);
        const std::size_t range = AdapterLayout::layer_range(l);
        const LayerGradient to{gradient(), adapter_->range_begin[range], gradient_stride_, ones()};
        for (std::size_t i = 0; i < batches_.size(); ++i) {
            const Batch& batch = batches_[i];
            Tape kept = tape(i, l);
            const Tensor x = input(i, l), dx = input(i, config_.layers);
            if (recomputed(l)) decoder_->forward(l, packs, batch.context, x, Tensor(), kept);
            decoder_->backward(l, packs, batch.context, x, kept, dx, to,
                               arena_.at(work_) + tape_stride_);
            for (std::size_t s = 0; s < batch.count(); ++s) {
                sink(range, batch.first + s,
                     gradient() + static_cast<std::int64_t>(s) * gradient_stride_);
            }
        }
    }
}

}  // namespace qshard
