#include "train/inference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/philox.h"
#include "model/trained_weight.h"
#include "spec/rope.h"

namespace qshard {
namespace {

constexpr Directions kForwardOnly{true, false};

}  // namespace

/// A sequence being answered.
struct Inference::Active {
    std::int64_t row = 0;                  ///< of the caller's list
    std::int64_t place = 0;                ///< of its keys and values in the cache
    std::span<const std::int32_t> prompt;  ///< the caller's
    std::vector<std::int32_t> pending;     ///< tokens not yet in the cache
    std::int64_t cached = 0;
    std::vector<std::int32_t> answer;
    bool done = false;

    std::int64_t length() const { return cached + std::ssize(pending); }
};

Inference::Inference(Backend& backend, const ModelConfig& config, const ModelLayout& layout,
                     const AdapterLayout* adapter, const InferenceOptions& options, Arena& arena)
    : backend_(backend),
      config_(config),
      layout_(layout),
      adapter_(adapter),
      options_(options),
      arena_(arena),
      needs_(needs_of(adapter, false)) {
    for (std::int64_t l = 0; l < config.layers; ++l) {
        const UnitLayout& unit = layout.units[layout.layer_unit(l)];
        layer_packs_.push_back(arena.reserve(
            "expanded layers",
            block_pack_bytes(backend, unit, l, adapter, options.compute, kForwardOnly)));
    }
    head_packs_ =
        arena.reserve("expanded head", head_pack_bytes(backend, config, options.compute, false));
    const UnitLayout& embed = layout.units[layout.embed_unit()];
    if (adapter == nullptr || !adapter->trains_embedding())
        embed_ = arena.reserve("embedding", embed.at(Role::kEmbed).data_bytes);
    const Field* positions = embed.find(Role::kPositions);
    if (positions != nullptr) positions_ = arena.reserve("embedding", positions->data_bytes);
    cache_stride_ = Scratch::aligned(
        static_cast<std::size_t>(options.max_sequences * options.max_context * config.kv_width()) *
        bytes_of(options.compute));
    cache_ = arena.reserve("keys and values",
                           2 * static_cast<std::size_t>(config.layers) * cache_stride_);
    x_stride_ = Scratch::aligned(static_cast<std::size_t>(options.max_tokens * config.width) *
                                 sizeof(float));
    x_ = arena.reserve("residual stream", 2 * x_stride_);
    const std::int64_t head_rows = std::min(options.max_tokens, head_chunk_rows(backend_, config));
    work_ = arena.reserve(
        "working activations and logits",
        std::max(tape_bytes(config, needs_, options.max_tokens, options.compute),
                 head_scratch_bytes(backend_, config, head_rows, options.compute, false)));
    ropes_ = arena.reserve("rotary tables", Rotary::bytes(config, rotary_limits()));
    if (adapter != nullptr && adapter->rows > 0) {
        row_factors_ = arena.reserve("row factors of the adapter",
                                     static_cast<std::size_t>(adapter->rows) * sizeof(float));
    }
}

void Inference::start(WeightSource& source, const float* adapter_values) {
    if (!decoder_) {
        decoder_ = std::make_unique<Decoder>(
            backend_, config_, Rotary(backend_, config_, rotary_limits(), arena_.at(ropes_)),
            options_.compute);
        head_ = std::make_unique<Head>(backend_, config_, options_.compute);
    }
    std::vector<std::size_t> order(layout_.units.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    source.expect(order);
    AdapterValues values{adapter_values, nullptr};
    if (adapter_ != nullptr && adapter_->rows > 0)
        values.row_factors = reinterpret_cast<float*>(arena_.at(row_factors_));
    blocks_.clear();
    for (std::size_t u : order) {
        const std::byte* bytes = source.acquire(u);
        const UnitLayout& unit = layout_.units[u];
        if (u == layout_.embed_unit()) {
            auto keep = [&](Tensor table, Arena::Handle place) {
                if (table.empty()) return Tensor();
                const Tensor copy(arena_.at(place), table.dtype(), {table.rows(), table.cols()});
                backend_.copy(table, copy);
                return copy;
            };
            const Tensor trained = trained_embedding(adapter_, adapter_values);
            tables_ = embedding_tables(config_, unit, bytes, trained);
            if (trained.empty()) tables_.tokens = keep(tables_.tokens, embed_);
            tables_.positions = keep(tables_.positions, positions_);
        }
        if (u == layout_.head_unit()) {
            head_packs_ready_ =
                prepare_head(backend_, config_, unit, bytes, adapter_, adapter_values,
                             options_.compute, false, arena_.at(head_packs_));
        }
        if (u >= layout_.layer_unit(0) && u < layout_.layer_unit(config_.layers)) {
            const auto layer = static_cast<std::int64_t>(u - layout_.layer_unit(0));
            if (adapter_ != nullptr) {
                measure_rows(backend_, unit, bytes, layer, *adapter_, values, RowMeasure::kFactor);
            }
            blocks_.push_back(prepare_block(
                backend_, unit, bytes, layer, adapter_, values, options_.compute, kForwardOnly,
                arena_.at(layer_packs_[static_cast<std::size_t>(layer)])));
        }
        source.release(u);
    }
}

KvCache Inference::cache(std::int64_t layer) const {
    std::byte* k = arena_.at(cache_) + 2 * static_cast<std::size_t>(layer) * cache_stride_;
    const std::int64_t rows = options_.max_sequences * options_.max_context;
    return {{k, options_.compute, {rows, config_.kv_width()}},
            {k + cache_stride_, options_.compute, {rows, config_.kv_width()}}};
}

Tensor Inference::forward(TokenContext& context, std::span<const std::int32_t> tokens) {
    check(context.tokens <= options_.max_tokens, "the pass was planned for these tokens");
    decoder_->rotary().place(context, 0);
    auto x = [&](std::int64_t layer) {
        return Tensor(arena_.at(x_) + static_cast<std::size_t>(layer % 2) * x_stride_, DType::kF32,
                      {context.tokens, config_.width});
    };
    embed_tokens(backend_, tables_, tokens, context.positions, x(0), x(1));
    Tape tape = make_tape(config_, needs_, context.tokens, options_.compute, arena_.at(work_));
    for (std::int64_t l = 0; l < config_.layers; ++l) {
        const KvCache layer_cache = cache(l);
        decoder_->forward(l, blocks_[static_cast<std::size_t>(l)], context, x(l), x(l + 1), tape,
                          &layer_cache);
    }
    return x(config_.layers);
}

std::span<const float> Inference::logits_of(Tensor x, std::span<const std::int32_t> rows) {
    const Tensor logits = head_->logits(head_packs_ready_, x, rows, arena_.at(work_));
    host_logits_.resize(static_cast<std::size_t>(logits.count()));
    backend_.download(host_logits_.data(), logits.data(), logits.bytes());
    return host_logits_;
}

void Inference::renew_keys(Active& sequence) const {
    const auto stretched = [this](std::int64_t length) {
        return std::ranges::any_of(config_.ropes, [length](const RopeConfig& rope) {
            return rope.kind == RopeKind::kLongrope && is_stretched(rope, length);
        });
    };
    if (!config_.renews_keys || !stretched(sequence.length()) || stretched(sequence.cached)) return;
    sequence.cached = 0;
    sequence.pending.assign(sequence.prompt.begin(), sequence.prompt.end());
    sequence.pending.insert(sequence.pending.end(), sequence.answer.begin(), sequence.answer.end());
}

void Inference::run_batch(std::vector<Active>& batch, const SamplingOptions& sampling) {
    TokenContext context;
    std::vector<std::int32_t> tokens, last_rows;
    std::vector<Active*> finished;  // sequences whose pending tokens end in this pass
    auto flush = [&] {
        if (context.tokens == 0) return;
        const Tensor x = forward(context, tokens);
        const std::int64_t chunk = head_chunk_rows(backend_, config_);
        for (std::size_t begin = 0; begin < finished.size();
             begin += static_cast<std::size_t>(chunk)) {
            const std::size_t count =
                std::min(finished.size() - begin, static_cast<std::size_t>(chunk));
            const std::span<const float> logits =
                logits_of(x, std::span(last_rows).subspan(begin, count));
            const auto width = static_cast<std::size_t>(config_.vocabulary);
            for (std::size_t i = 0; i < count; ++i) {
                Active& sequence = *finished[begin + i];
                const std::int32_t next =
                    sample(logits.subspan(i * width, width), sampling, sequence.row,
                           static_cast<std::int64_t>(sequence.answer.size()));
                sequence.pending.assign(1, next);
                const bool stops = std::find(sampling.stop_ids.begin(), sampling.stop_ids.end(),
                                             next) != sampling.stop_ids.end();
                if (!stops) sequence.answer.push_back(next);
                sequence.done =
                    stops ||
                    static_cast<std::int64_t>(sequence.answer.size()) >= sampling.max_new_tokens ||
                    sequence.cached + 1 > options_.max_context;
            }
        }
        context = {};
        tokens.clear();
        last_rows.clear();
        finished.clear();
    };
    for (Active& sequence : batch) {
        renew_keys(sequence);
        const std::int64_t length = sequence.length();
        std::size_t taken = 0;
        while (taken < sequence.pending.size()) {
            if (context.tokens == options_.max_tokens) flush();
            const auto count =
                std::min<std::int64_t>(static_cast<std::int64_t>(sequence.pending.size() - taken),
                                       options_.max_tokens - context.tokens);
            const auto first = sequence.pending.begin() + static_cast<std::ptrdiff_t>(taken);
            tokens.insert(tokens.end(), first, first + count);
            context.add_sequence(count, sequence.place * options_.max_context, sequence.cached,
                                 length);
            sequence.cached += count;
            taken += static_cast<std::size_t>(count);
        }
        finished.push_back(&sequence);
        last_rows.push_back(static_cast<std::int32_t>(context.tokens - 1));
    }
    flush();
}

std::vector<std::vector<std::int32_t>> Inference::generate(
    std::span<const std::vector<std::int32_t>> prompts, const SamplingOptions& sampling,
    std::int64_t first_row, const std::function<void(std::int64_t)>& on_done) {
    std::vector<std::vector<std::int32_t>> answers(prompts.size());
    std::vector<Active> batch;
    std::vector<std::int64_t> places(static_cast<std::size_t>(options_.max_sequences));
    std::iota(places.begin(), places.end(), std::int64_t{0});
    std::size_t next = 0;
    while (next < prompts.size() || !batch.empty()) {
        while (next < prompts.size() && !places.empty()) {
            const std::vector<std::int32_t>& prompt = prompts[next];
            if (prompt.empty() ||
                static_cast<std::int64_t>(prompt.size()) >= options_.max_context) {
                throw UserError(fmt::format(
                    "a prompt has {} tokens; expected 1 to {}, room for an answer included",
                    prompt.size(), options_.max_context - 1));
            }
            Active sequence;
            sequence.row = first_row + static_cast<std::int64_t>(next++);
            sequence.place = places.back();
            sequence.pending = prompt;
            sequence.prompt = prompt;
            places.pop_back();
            batch.push_back(std::move(sequence));
        }
        if (sampling.max_new_tokens > 0) run_batch(batch, sampling);
        std::erase_if(batch, [&](Active& sequence) {
            if (!sequence.done && sampling.max_new_tokens > 0) return false;
            answers[static_cast<std::size_t>(sequence.row - first_row)] =
                std::move(sequence.answer);
            places.push_back(sequence.place);
            if (on_done) on_done(sequence.row);
            return true;
        });
    }
    return answers;
}

void Inference::score(std::span<const std::int32_t> tokens,
                      const std::function<void(std::int64_t, std::span<const float>)>& visit,
                      std::int64_t first) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    check(count <= options_.max_context, "the text fits the context");
    const auto width = static_cast<std::size_t>(config_.vocabulary);
    for (std::int64_t begin = 0; begin + 1 < count;) {
        TokenContext context;
        context.add_sequence(std::min(options_.max_tokens, count - begin), 0, begin, count);
        const Tensor x = forward(context, tokens.subspan(static_cast<std::size_t>(begin),
                                                         static_cast<std::size_t>(context.tokens)));
        const std::int64_t chunk =
            std::min(head_chunk_rows(backend_, config_), options_.max_tokens);
        for (std::int64_t from = std::max<std::int64_t>(0, first - begin);
             from < context.tokens && begin + from + 1 < count; from += chunk) {
            std::vector<std::int32_t> rows;
            for (std::int64_t i = from;
                 i < std::min(from + chunk, context.tokens) && begin + i + 1 < count; ++i) {
                rows.push_back(static_cast<std::int32_t>(i));
            }
            const std::span<const float> logits = logits_of(x, rows);
            for (std::size_t i = 0; i < rows.size(); ++i) {
                visit(begin + rows[i], logits.subspan(i * width, width));
            }
        }
        begin += context.tokens;
    }
}

std::int32_t sample(std::span<const float> logits, const SamplingOptions& sampling,
                    std::int64_t row, std::int64_t position) {
    const auto best = std::max_element(logits.begin(), logits.end());
    if (sampling.temperature <= 0) return static_cast<std::int32_t>(best - logits.begin());
    std::vector<std::int32_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    auto likelier = [&](std::int32_t a, std::int32_t b) {
        const float x = logits[static_cast<std::size_t>(a)],
                    y = logits[static_cast<std::size_t>(b)];
        return x != y ? x > y : a < b;
    };
    if (sampling.top_k > 0 && static_cast<std::int64_t>(ids.size()) > sampling.top_k) {
        std::partial_sort(ids.begin(), ids.begin() + sampling.top_k, ids.end(), likelier);
        ids.resize(static_cast<std::size_t>(sampling.top_k));
    } else {
        std::sort(ids.begin(), ids.end(), likelier);
    }
    std::vector<double> weight;
    double total = 0;
    for (std::int32_t id : ids) {
        weight.push_back(std::exp((double{logits[static_cast<std::size_t>(id)]} - double{*best}) /
                                  sampling.temperature));
        total += weight.back();
    }
    double kept = 0;
    std::size_t count = 0;
    while (count < ids.size() && (count == 0 || kept < sampling.top_p * total))
        kept += weight[count++];
    const Philox random(sampling.seed, Purpose::kSampling, static_cast<std::uint32_t>(row));
    double target = double{random.uniform(static_cast<std::uint64_t>(position))} * kept;
    for (std::size_t i = 0; i < count; ++i) {
        if (target < weight[i]) return ids[i];
        target -= weight[i];
    }
    return ids[count - 1];
}

}  // namespace qshard
