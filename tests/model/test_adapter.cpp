#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/device_arena.h"
#include "comm/threads.h"
#include "place/import.h"
#include "place/merged_weights.h"
#include "place/slot_runner.h"
#include "place/weight_sources.h"
#include "synthetic.h"

/// What an adapter does in the model: the same as weights with it merged in, whatever its ranks and
/// scales; and derivatives through its dropout.
namespace qshard {
namespace {

constexpr std::int64_t kTokens = 24;

struct Pass {
    double loss = 0;
    std::vector<float> gradient;
};

/// Two slots of one model through forward and backward, in fp32 on an unquantized base.
class Rig {
  public:
    Rig(const WeightReader& reader, const AdapterLayout& adapter, std::int64_t recomputed = 0)
        : config_(reader.config()),
          adapter_(adapter),
          backend_(test::make_backend(1)),
          arena_(*backend_) {
        const LayoutOptions options{Quantization::kNone, false, DType::kF32};
        layout_ = make_layout(config_, options);
        RunnerOptions runner;
        runner.compute = DType::kF32;
        runner.max_tokens = kTokens;
        runner.max_group_slots = 2;
        runner.recomputed_layers = recomputed;
        runner_ =
            std::make_unique<SlotRunner>(*backend_, config_, layout_, &adapter_, runner, arena_);
        std::vector<Arena::Handle> handles;
        for (const UnitLayout& unit : layout_.units)
            handles.push_back(arena_.reserve(unit.name, unit.shard_bytes(1)));
        values_ =
            arena_.reserve("values", static_cast<std::size_t>(adapter_.count) * sizeof(float));
        arena_.commit();
        std::vector<const std::byte*> units;
        run_threads(1, [&](Communicator& group) {
            for (std::size_t u = 0; u < handles.size(); ++u) {
                const UnitLayout& unit = layout_.units[u];
                std::vector<std::byte> bytes(unit.shard_bytes(1));
                import_unit(reader, unit, options, group, 1, bytes);
                backend_->upload(arena_.at(handles[u]), bytes.data(), bytes.size());
                units.push_back(arena_.at(handles[u]));
            }
        });
        source_ = std::make_unique<ResidentSource>(units);
        runner_->start(*source_, reinterpret_cast<const float*>(arena_.at(values_)));
    }

    Pass run(std::span<const float> values, const SlotPosition& where = {}) {
        set(values);
        const test::SyntheticBatches batches(config_.vocabulary, 2, kTokens);
        const std::vector<Slot> slots = {batches.slot(0, 0), batches.slot(0, 1)};
        Pass pass;
        pass.gradient.assign(static_cast<std::size_t>(adapter_.count), 0.0f);
        runner_->train(
            slots, where, -1.0f,
            [&](std::size_t, std::span<const float> logprob) {
                for (float value : logprob) pass.loss -= double{value};
            },
            [&](std::size_t range, std::size_t, const float* gradient) {
                const std::int64_t begin = adapter_.range_begin[range];
                for (std::int64_t i = 0; i < adapter_.range_count(range); ++i)
                    pass.gradient[static_cast<std::size_t>(begin + i)] += gradient[i];
            });
        return pass;
    }

    std::vector<float> row_norms(std::span<const float> values) {
        set(values);
        return runner_->row_norms();
    }

    /// The same values with the trained weights as the base has them.
    std::vector<float> from_base(std::span<const float> values) {
        set(values);
        auto* flat = reinterpret_cast<float*>(arena_.at(values_));
        runner_->copy_trained_weights(flat);
        std::vector<float> filled(values.size());
        backend_->download(filled.data(), flat, values.size_bytes());
        return filled;
    }

  private:
    void set(std::span<const float> values) {
        backend_->upload(arena_.at(values_), values.data(), values.size_bytes());
        runner_->adapter_changed();
    }

    const ModelConfig& config_;
    const AdapterLayout& adapter_;
    std::unique_ptr<Backend> backend_;
    ModelLayout layout_;
    DeviceArena arena_;
    Arena::Handle values_ = 0;
    std::unique_ptr<SlotRunner> runner_;
    std::unique_ptr<ResidentSource> source_;
};

AdapterOptions mixed_options(double dropout, bool dora = false) {
    AdapterOptions options;
    options.use_dora = dora;
    options.r = 4;
    options.alpha = 6;
    options.dropout = dropout;
    options.use_rslora = true;
    options.init = AdapterInit::kRandom;
    options.target_modules = {"all-linear"};
    options.exclude_modules = {"k_proj"};
    options.rank_pattern = {{"down_proj", 2}, {"layers\\.1\\.mlp.*", 7}};
    options.alpha_pattern = {{"o_proj", 3}};
    return options;
}

/// Experts in all layers but one; every token goes to all of them, because the choice of some has
/// no derivative.
ModelConfig mixture() {
    ModelConfig config = test::small_config();
    config.family = "mixtral";
    config.experts = config.experts_per_token = 5;
    config.expert_width = 36;
    config.normalized_experts = true;
    config.layer[0].experts = config.layer[2].experts = true;
    return config;
}

std::vector<float> initial(const AdapterLayout& layout) {
    std::vector<float> values(static_cast<std::size_t>(layout.count));
    initialize_adapter(layout, 11, values);
    return values;
}

/// The same values with the magnitudes times what change(row) says of the norms of the rows of
/// `rig`.
template <class Change>
std::vector<float> with_magnitudes(const AdapterLayout& layout, std::vector<float> values, Rig& rig,
                                   Change change) {
    const std::vector<float> norms = rig.row_norms(values);
    for (const AdapterTarget& t : layout.targets) {
        for (std::int64_t o = 0; o < t.out; ++o) {
            const auto row = static_cast<std::size_t>(t.first_row + o);
            values[static_cast<std::size_t>(t.magnitude + o)] = norms[row] * change(row);
        }
    }
    return values;
}
float uneven(std::size_t row) {
    return 0.4f + 0.2f * static_cast<float>(row % 7);
}

TEST(Adapter, ComputesWhatTheMergedWeightsCompute) {
    for (const ModelConfig& config : {test::small_config(), mixture()}) {
        const test::SyntheticReader reader(config);
        const AdapterLayout layout = make_adapter_layout(reader.config(), mixed_options(0));
        const std::vector<float> values = initial(layout), zero(values.size(), 0.0f);
        const double plain = Rig(reader, layout).run(zero).loss;
        const double adapted = Rig(reader, layout).run(values).loss;
        const MergedWeights merged(reader, layout, values, DType::kF32);
        const double expected = Rig(merged, layout).run(zero).loss;
        EXPECT_GT(std::abs(adapted - plain), 0.1);
        EXPECT_NEAR(adapted, expected, 2e-5 * expected) << config.family;
    }
}

TEST(Adapter, DoraComputesWhatTheMergedWeightsCompute) {
    const test::SyntheticReader reader(test::small_config());
    const AdapterLayout layout = make_adapter_layout(reader.config(), mixed_options(0, true));
    Rig rig(reader, layout);
    const std::vector<float> zero(static_cast<std::size_t>(layout.count), 0.0f);
    const auto one = [](std::size_t) { return 1.0f; };
    const std::vector<float> none = with_magnitudes(layout, zero, rig, one);
    const std::vector<float> values = with_magnitudes(layout, initial(layout), rig, uneven);
    const double plain = rig.run(none).loss, adapted = rig.run(values).loss;
    const AdapterLayout lora = make_adapter_layout(reader.config(), mixed_options(0));
    const std::vector<float> nothing(static_cast<std::size_t>(lora.count), 0.0f);
    EXPECT_NEAR(plain, Rig(reader, lora).run(nothing).loss, 1e-6 * plain);
    const MergedWeights merged(reader, layout, values, DType::kF32);
    const double expected = Rig(merged, lora).run(nothing).loss;
    EXPECT_GT(std::abs(adapted - plain), 0.1);
    EXPECT_NEAR(adapted, expected, 2e-5 * expected);
    // With the norms of the adapted rows DoRA does what LoRA does.
    const std::vector<float> same = with_magnitudes(layout, initial(layout), rig, one);
    const double of_lora = Rig(reader, lora).run(initial(lora)).loss;
    EXPECT_NEAR(rig.run(same).loss, of_lora, 1e-6 * of_lora);
}

TEST(Adapter, GradientsOfDoraAreThoseOfFiniteDifferencesWithTheNormsHeld) {
    ModelConfig branches = test::small_config();
    branches.family = "gemma3_text";
    branches.qk_norm = branches.post_norms = true;
    ModelConfig scaled = test::small_config();
    scaled.family = "granite";
    scaled.residual_scale = 0.3f;
    ModelConfig fused = test::small_config();
    fused.family = "phi3";
    fused.fused_qkv = fused.fused_gate_up = true;
    const std::pair<ModelConfig, double> cases[] = {{test::small_config(), 0.0},
                                                    {branches, 0.0},
                                                    {scaled, 0.0},
                                                    {test::small_config(), 0.3},
                                                    {branches, 0.3},
                                                    {scaled, 0.3},
                                                    {fused, 0.3}};
    for (const auto& [config, dropout] : cases) {
        SCOPED_TRACE(fmt::format("{}, dropout {}", config.family, dropout));
        const test::SyntheticReader reader(config);
        const AdapterLayout layout = make_adapter_layout(config, mixed_options(dropout, true));
        Rig rig(reader, layout, 1);
        const SlotPosition where{5, 3, 14};
        const std::vector<float> values = with_magnitudes(layout, initial(layout), rig, uneven);
        const Pass pass = rig.run(values, where);
        // The factors are held when the magnitudes follow the norms.
        const auto moved = [&](const AdapterTensor& tensor, float step, bool hold) {
            std::vector<float> at = values;
            for (std::int64_t i = tensor.offset; i < tensor.offset + tensor.count(); ++i) {
                const auto e = static_cast<std::size_t>(i);
                at[e] += pass.gradient[e] < 0 ? -step : step;
            }
            return hold ? with_magnitudes(layout, at, rig, uneven) : at;
        };
        for (const AdapterTarget& target : layout.targets) {
            for (const AdapterTensor& tensor : tensors_of(target)) {
                const bool factor = tensor.offset != target.magnitude;
                const float step = 2e-4f;
                double along = 0;
                for (std::int64_t i = tensor.offset; i < tensor.offset + tensor.count(); ++i)
                    along += std::abs(double{pass.gradient[static_cast<std::size_t>(i)]});
                const double difference = (rig.run(moved(tensor, step, factor), where).loss -
                                           rig.run(moved(tensor, -step, factor), where).loss) /
                                          (2 * double{step});
                EXPECT_NEAR(difference, along, 0.01 * along + 0.3) << tensor.name;
            }
        }
    }
}

/// A model of which an adapter trains weights themselves.
struct Whole {
    Whole(const ModelConfig& config, std::vector<std::string> names, AdapterBias bias,
          bool dora = false)
        : reader(config) {
        AdapterOptions options = mixed_options(0, dora);
        options.modules_to_save = std::move(names);
        options.bias = bias;
        layout = make_adapter_layout(reader.config(), options);
        rig = std::make_unique<Rig>(reader, layout, 1);
        values = rig->from_base(initial(layout));
        if (dora) values = with_magnitudes(layout, values, *rig, uneven);
    }

    test::SyntheticReader reader;
    AdapterLayout layout;
    std::unique_ptr<Rig> rig;
    std::vector<float> values;  ///< with the base's own weights
};

/// With a scale of embeddings and a padding token, which the slots have.
ModelConfig tokens_config(bool tied) {
    ModelConfig config = test::small_config();
    config.tied_head = tied;
    config.embed_scale = 1.7f;
    config.pad_id = test::SyntheticBatches(config.vocabulary, 2, kTokens).slot(0, 0).tokens[3];
    return config;
}
/// With biases everywhere; q, k and v fused or not.
ModelConfig biased_config(bool fused) {
    ModelConfig config = test::small_config();
    config.family = fused ? "gpt2" : "starcoder2";
    config.norm = NormKind::kLayer;
    config.qkv_bias = config.o_bias = config.mlp_bias = true;
    config.gated_mlp = false;
    config.fused_qkv = fused;
    config.tied_head = !fused;
    return config;
}
/// One of every kind.
std::vector<std::unique_ptr<Whole>> whole_models() {
    std::vector<std::unique_ptr<Whole>> models;
    const auto add = [&](const ModelConfig& config, std::vector<std::string> names,
                         AdapterBias bias, bool dora = false) {
        models.push_back(std::make_unique<Whole>(config, std::move(names), bias, dora));
    };
    for (const bool tied : {false, true})
        add(tokens_config(tied), {"embed_tokens", "lm_head"}, AdapterBias::kNone);
    add(tokens_config(true), {"lm_head"}, AdapterBias::kAll);
    add(tokens_config(true), {"embed_tokens"}, AdapterBias::kNone);
    for (const bool fused : {false, true}) {
        add(biased_config(fused), {}, AdapterBias::kAll);
        add(biased_config(fused), {}, AdapterBias::kLoraOnly);
        add(biased_config(fused), {"lm_head"}, AdapterBias::kAll, true);
    }
    return models;
}

TEST(Adapter, WeightsTrainedThemselvesStartAsTheBasesAndAreWhatTheMergedModelHas) {
    for (const auto& model : whole_models()) {
        const Whole& whole = *model;
        SCOPED_TRACE(
            fmt::format("{} {}", whole.reader.config().family, whole.layout.weights.size()));
        AdapterOptions options = whole.layout.options;
        options.modules_to_save.clear();
        options.bias = AdapterBias::kNone;
        const AdapterLayout lora = make_adapter_layout(whole.reader.config(), options);
        std::vector<float> values;  // the same but for the weights
        for (const AdapterTensor& tensor : tensors_of(whole.layout)) {
            if (tensor.name.find(".lora_") == std::string::npos) continue;
            const auto begin = whole.values.begin() + tensor.offset;
            values.insert(values.end(), begin, begin + tensor.count());
        }
        const double untouched = Rig(whole.reader, lora).run(values).loss;
        EXPECT_EQ(whole.rig->run(whole.values).loss, untouched);
        values = whole.values;
        for (const TrainedWeight& weight : whole.layout.weights) {
            for (std::int64_t i = 0; i < weight.tensor.count(); ++i) {
                values[static_cast<std::size_t>(weight.tensor.offset + i)] +=
                    0.02f * static_cast<float>(i % 11 - 4);
            }
        }
        const double changed = whole.rig->run(values).loss;
        EXPECT_GT(std::abs(changed - untouched), 0.05);
        const MergedWeights merged(whole.reader, whole.layout, values, DType::kF32);
        EXPECT_FALSE(merged.config().tied_head && !options.modules_to_save.empty());
        const AdapterLayout plain = make_adapter_layout(merged.config(), mixed_options(0));
        const std::vector<float> nothing(static_cast<std::size_t>(plain.count), 0.0f);
        EXPECT_NEAR(Rig(merged, plain).run(nothing).loss, changed, 2e-5 * changed);
    }
}

TEST(Adapter, GradientsOfWeightsTrainedThemselvesAreThoseOfFiniteDifferences) {
    for (const auto& model : whole_models()) {
        const Whole& whole = *model;
        const std::int64_t width = whole.reader.config().width;
        const Pass pass = whole.rig->run(whole.values);
        for (const TrainedWeight& weight : whole.layout.weights) {
            // Every third row of a matrix alone, so that none can hide behind another.
            const bool vector = is_bias(weight.role);
            const std::int64_t rows = vector ? 1 : weight.tensor.shape[0];
            const std::int64_t length = vector ? weight.tensor.count() : width;
            for (std::int64_t row = 0; row < rows; row += 3) {
                if (weight.role == Role::kEmbed && row == whole.reader.config().pad_id) continue;
                const std::int64_t begin = weight.tensor.offset + row * width;
                const float step = 1e-3f;
                std::vector<float> above = whole.values, below = whole.values;
                double along = 0;
                for (std::int64_t i = begin; i < begin + length; ++i) {
                    const auto e = static_cast<std::size_t>(i);
                    const float sign = pass.gradient[e] < 0 ? -1.0f : 1.0f;
                    above[e] += step * sign;
                    below[e] -= step * sign;
                    along += std::abs(double{pass.gradient[e]});
                }
                const double difference =
                    (whole.rig->run(above).loss - whole.rig->run(below).loss) / (2 * double{step});
                EXPECT_NEAR(difference, along, 0.01 * along + 0.05)
                    << whole.reader.config().family << " " << weight.tensor.name << " row " << row;
            }
        }
    }
}

TEST(Adapter, ThePaddingTokensRowOfTheEmbeddingHasNoGradient) {
    Whole whole(tokens_config(true), {"embed_tokens", "lm_head"}, AdapterBias::kNone);
    const std::int64_t width = whole.reader.config().width;
    const Pass pass = whole.rig->run(whole.values);
    for (const TrainedWeight& weight : whole.layout.weights) {
        double padding = 0;
        const std::int64_t row = weight.tensor.offset + *whole.reader.config().pad_id * width;
        for (std::int64_t i = row; i < row + width; ++i)
            padding += std::abs(double{pass.gradient[static_cast<std::size_t>(i)]});
        EXPECT_EQ(padding > 0, weight.role == Role::kHead);
    }
}

TEST(Adapter, OnlyEmbeddingAndHeadCanBeSaved) {
    AdapterOptions options = mixed_options(0);
    options.modules_to_save = {"lm_head", "norm"};
    try {
        make_adapter_layout(test::small_config(), options);
        FAIL() << "norm was taken";
    } catch (const UserError& error) {
        EXPECT_NE(std::string(error.what())
                      .find("\"norm\", which is not supported; this model can "
                            "save lm_head and model.embed_tokens"),
                  std::string::npos)
            << error.what();
    }
}

TEST(Adapter, GradientsAreThoseOfFiniteDifferencesWithAndWithoutDropout) {
    const std::pair<ModelConfig, double> cases[] = {
        {test::small_config(), 0.0}, {test::small_config(), 0.3}, {mixture(), 0.0}};
    for (const auto& [config, dropout] : cases) {
        const test::SyntheticReader reader(config);
        const AdapterLayout layout = make_adapter_layout(reader.config(), mixed_options(dropout));
        Rig rig(reader, layout);
        const SlotPosition where{5, 3, 14};
        const std::vector<float> values = initial(layout);
        const Pass pass = rig.run(values, where);
        // A direction in each layer's A and B parts alone, so that none can hide behind another.
        for (const AdapterTarget& target : layout.targets) {
            for (const bool is_a : {true, false}) {
                const AdapterTensor tensor = tensors_of(target)[is_a ? 0 : 1];
                const auto begin = static_cast<std::size_t>(tensor.offset);
                const auto count = static_cast<std::size_t>(tensor.count());
                const float step = 3e-4f;
                std::vector<float> above = values, below = values;
                double along = 0;
                for (std::size_t i = begin; i < begin + count; ++i) {
                    const float sign = pass.gradient[i] < 0 ? -1.0f : 1.0f;
                    above[i] += step * sign;
                    below[i] -= step * sign;
                    along += static_cast<double>(pass.gradient[i] * sign);
                }
                const double difference =
                    (rig.run(above, where).loss - rig.run(below, where).loss) / (2 * double{step});
                EXPECT_NEAR(difference, along, 0.01 * along + 0.3)
                    << target.module << (is_a ? " A" : " B") << " dropout " << dropout;
            }
        }
    }
}

TEST(Adapter, ExpertsThatNoTokenGoesToHaveNoGradient) {
    ModelConfig config = mixture();
    config.experts = 31;
    config.experts_per_token = 1;
    const test::SyntheticReader reader(config);
    const AdapterLayout layout = make_adapter_layout(config, mixed_options(0));
    const std::vector<float> values = initial(layout);
    Rig rig(reader, layout);
    const Pass pass = rig.run(values);
    std::int64_t busy = 0, idle = 0;
    for (const std::int64_t layer : {0, 2}) {
        const AdapterTarget &gate_up = *layout.find(layer, Role::kExpertGateUp),
                            &down = *layout.find(layer, Role::kExpertDown);
        const auto learns = [&](std::int64_t begin, std::int64_t end) {
            return std::any_of(pass.gradient.begin() + begin, pass.gradient.begin() + end,
                               [](float value) { return value != 0; });
        };
        for (std::int64_t e = 0; e < config.experts; ++e) {
            std::vector<float> other = values;
            for (std::int64_t i = down.a_of(e); i < down.a_of(e + 1); ++i)
                other[static_cast<std::size_t>(i)] += 1;
            const bool used = rig.run(other).loss != pass.loss;
            ++(used ? busy : idle);
            EXPECT_EQ(learns(down.a_of(e), down.a_of(e + 1)), used) << e;
            EXPECT_EQ(learns(gate_up.a_of(e), gate_up.a_of(e + 1)), used) << e;
            for (const AdapterTarget* target : {&gate_up, &down}) {
                const std::int64_t rows = target->out;
                EXPECT_EQ(learns(target->b_of_row(e * rows), target->b_of_row((e + 1) * rows)),
                          used)
                    << e;
            }
        }
    }
    EXPECT_GT(busy, 5);
    EXPECT_GT(idle, 5);
}

TEST(Adapter, MasksFollowSeedStepAndSlotAndSurviveRecomputation) {
    for (const bool dora : {false, true}) {
        const test::SyntheticReader reader(test::small_config());
        const AdapterLayout layout = make_adapter_layout(reader.config(), mixed_options(0.3, dora));
        Rig kept(reader, layout), computed_again(reader, layout, 3);
        std::vector<float> values = initial(layout);
        if (dora) values = with_magnitudes(layout, values, kept, uneven);
        const Pass reference = kept.run(values, {5, 3, 14});
        EXPECT_EQ(computed_again.run(values, {5, 3, 14}).gradient, reference.gradient);
        for (const SlotPosition& other : {SlotPosition{6, 3, 14}, {5, 4, 14}, {5, 3, 15}}) {
            EXPECT_NE(kept.run(values, other).loss, reference.loss);
        }
        EXPECT_EQ(kept.run(values, {5, 3, 14}).loss, reference.loss);
    }
}

TEST(DropoutMask, KeepsTheShareAskedForAndEveryPositionByItself) {
    const DropoutMask mask{1, 2, 3, 4, DropoutMask::dropped_at(0.1)};
    const std::int64_t count = 1 << 18;
    std::vector<bool> kept;
    mask.each(0, count, [&](std::int64_t i, bool keep) {
        EXPECT_EQ(i, std::ssize(kept));
        kept.push_back(keep);
    });
    const auto share = static_cast<double>(std::count(kept.begin(), kept.end(), true)) / count;
    EXPECT_NEAR(share, 0.9, 4 * std::sqrt(0.09 / count));
    EXPECT_NEAR(mask.scale() * share, 1.0, 0.005);
    mask.each(12345, 77, [&](std::int64_t i, bool keep) {
        EXPECT_EQ(keep, kept[static_cast<std::size_t>(i)]) << i;
    });
    for (const DropoutMask& other : {DropoutMask{9, 2, 3, 4, mask.dropped},
                                     {1, 9, 3, 4, mask.dropped},
                                     {1, 2, 9, 4, mask.dropped},
                                     {1, 2, 3, 9, mask.dropped}}) {
        std::int64_t both = 0;
        other.each(0, count, [&](std::int64_t i, bool keep) {
            both += !keep && !kept[static_cast<std::size_t>(i)];
        });
        EXPECT_NEAR(static_cast<double>(both) / count, 0.01, 0.001);
    }
}

}  // namespace
}  // namespace qshard
