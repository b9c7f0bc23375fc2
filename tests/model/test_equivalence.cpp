#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <mutex>

#include "base/hash.h"
#include "comm/threads.h"
#include "synthetic.h"
#include "train/inference.h"
#include "train/trainer.h"

/// The signature promise: the adapter's bits after some steps are one value whatever the ranks, the
/// placement, the threads and the recomputation.
namespace qshard {
namespace {

struct Variant {
    int ranks = 1;
    int threads = 1;
    PlacementMode placement = PlacementMode::kReplicated;
    Recompute recompute = Recompute::kNever;
    std::string_view backend = {};
    double dropout = 0;
    std::uint64_t seed = 42;
    bool dora = false;
    std::vector<std::string> modules_to_save = {};
    AdapterBias bias = AdapterBias::kNone;
    std::size_t memory_limit = 0;
};

struct Outcome {
    std::string adapter_sha256, base;
    std::vector<double> losses;
    std::uint64_t gathers = 0, exchanges = 0;
    std::size_t resident = 0, planned = 0, beside = 0;
    std::int64_t group_slots = 0, batch_slots = 0;
    std::uint64_t received = 0;  ///< of the base, in the last step
    double evaluated = 0;
};

/// The sections are parts of the whole, whoever's clock they are by.
void expect_sections(const StepSeconds& s, bool computes) {
    for (double section : {s.expand, s.forward, s.head, s.backward})
        EXPECT_TRUE(section > 0 || !computes);
    const double sum = s.data + s.gather + s.expand + s.forward + s.head + s.backward + s.reduce +
                       s.optimizer + s.other;
    EXPECT_NEAR(sum, s.total, 1e-3 * s.total + 1e-5);
}

Outcome run(const Variant& variant, int steps, DType compute = DType::kBF16,
            OptimizerKind optimizer = OptimizerKind::kAdamW,
            Quantization quantization = Quantization::kNf4,
            const ModelConfig& config = test::small_config()) {
    const test::SyntheticReader reader(config);
    const test::SyntheticBatches batches(config.vocabulary, 7, 24);
    Outcome outcome;
    std::mutex mutex;
    run_threads(variant.ranks, [&](Communicator& group) {
        const auto backend = test::make_backend(variant.threads, variant.backend);
        TrainerOptions options;
        options.compute = compute;
        options.placement = variant.placement;
        options.recompute = variant.recompute;
        options.memory_limit = variant.memory_limit;
        options.max_slot_tokens = 24;
        options.max_step_slots = 7;
        options.optimizer.kind = optimizer;
        options.schedule = {LrScheduler::kCosine, 5e-3, 0, steps};
        AdapterOptions adapter;
        adapter.r = 4;
        adapter.alpha = 8;
        adapter.target_modules = {"all-linear"};
        adapter.dropout = variant.dropout;
        adapter.use_dora = variant.dora;
        if (variant.dora) adapter.init = AdapterInit::kRandom;  // rows change their lengths
        adapter.rank_pattern = {{"down_proj", 2}, {"k_proj", 7}};
        adapter.modules_to_save = variant.modules_to_save;
        adapter.bias = variant.bias;
        // Experts and routers go without DoRA and dropout.
        if ((variant.dora || variant.dropout > 0) && config.experts > 0)
            adapter.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
        options.seed = variant.seed;
        LayoutOptions layout;
        layout.quantization = quantization;
        Trainer trainer(*backend, group, config, layout, adapter, options);
        trainer.load(reader, 1, {});
        std::vector<float> values(static_cast<std::size_t>(trainer.adapter_layout().count));
        initialize_adapter(trainer.adapter_layout(), 42, values);
        trainer.fill_from_base(values);
        trainer.set_adapter(values);
        const Traffic before = group.traffic();
        std::vector<double> losses;
        std::uint64_t received = 0;
        for (int s = 0; s < steps; ++s) {
            const StepResult result = trainer.step(batches, s, s, nullptr);
            losses.push_back(result.loss);
            const StepTraffic planned = trainer.planned_traffic(result.info.slot_count);
            EXPECT_EQ(result.received.gather, planned.gather);
            EXPECT_EQ(result.received.reduce, planned.reduce);
            received = result.received.gather;
            const SlotRange mine = slots_of(group.rank(), group.count(), result.info.slot_count);
            expect_sections(result.seconds, mine.count() > 0);
        }
        const Traffic after = group.traffic();
        const std::vector<Slot> slots = {batches.slot(90, 0), batches.slot(91, 1)};
        const double evaluated = trainer.evaluate(slots).loss;
        const std::vector<float> trained = trainer.adapter();
        const std::string base = trainer.base_fingerprint();
        const std::string sha = sha256_hex(std::as_bytes(std::span(trained)));
        for (const std::string& other : group.all_gather_strings(sha)) EXPECT_EQ(other, sha);
        EXPECT_NE(std::memcmp(values.data(), trained.data(), values.size() * sizeof(float)), 0);
        if (group.rank() == 0) {
            const std::lock_guard lock(mutex);
            outcome = {sha,
                       base,
                       losses,
                       after.all_gathers - before.all_gathers,
                       after.exchanges - before.exchanges,
                       trainer.resident_base_bytes(),
                       trainer.planned_bytes(),
                       trainer.host_bytes(),
                       trainer.group_slots(),
                       trainer.batch_slots(),
                       received,
                       evaluated};
        }
    });
    return outcome;
}

/// A GPU where that is under test, else its emulation.
std::string_view gpu() {
    return test::backend_under_test() == "cuda" ? "cuda" : "emulated_cuda";
}
/// The CPU's backend where the host cannot touch its memory, with the CPU's bits; under test is
/// another, that one.
std::string_view guarded() {
    return test::backend_under_test() == "cpu" ? "guarded" : test::backend_under_test();
}

TEST(Equivalence, AdapterBitsDoNotDependOnRanksPlacementThreadsOrRecomputation) {
    constexpr int kSteps = 5;
    const Outcome reference = run({}, kSteps);
    for (const int ranks : {1, 2, 3, 4, 6, 8}) {
        for (const PlacementMode placement :
             {PlacementMode::kReplicated, PlacementMode::kGathered}) {
            for (const int threads : {1, 2}) {
                const Recompute recompute =
                    (ranks + threads) % 2 == 0 ? Recompute::kAlways : Recompute::kNever;
                const Outcome other = run({ranks, threads, placement, recompute}, kSteps);
                SCOPED_TRACE(
                    fmt::format("{} ranks, {} threads, {}", ranks, threads,
                                placement == PlacementMode::kGathered ? "gathered" : "replicated"));
                EXPECT_EQ(other.adapter_sha256, reference.adapter_sha256);
                EXPECT_EQ(other.base, reference.base);
                EXPECT_EQ(other.losses, reference.losses);
            }
        }
    }
}

TEST(Equivalence, TheHostNeverTouchesTheBackendsMemory) {
    const Outcome open = run({.backend = "cpu"}, 3);
    for (const int ranks : {1, 2, 3}) {
        for (const PlacementMode placement :
             {PlacementMode::kReplicated, PlacementMode::kGathered}) {
            SCOPED_TRACE(fmt::format("{} ranks", ranks));
            const Outcome closed = run({ranks, 1, placement, Recompute::kAlways, "guarded"}, 3);
            EXPECT_EQ(closed.adapter_sha256, open.adapter_sha256);
            EXPECT_EQ(closed.base, open.base);
            EXPECT_EQ(closed.losses, open.losses);
        }
    }
}

TEST(Equivalence, HoldsForTheGpusKernels) {
    const Outcome cpu = run({.backend = "cpu"}, 2);
    const Outcome one = run({1, 1, PlacementMode::kReplicated, Recompute::kNever, gpu()}, 2);
    const Outcome two = run({2, 1, PlacementMode::kGathered, Recompute::kAlways, gpu()}, 2);
    EXPECT_EQ(one.adapter_sha256, two.adapter_sha256);
    EXPECT_EQ(one.losses, two.losses);
    EXPECT_EQ(one.base, cpu.base);
    // Another order of sums and another rounding of probabilities than the CPU's.
    for (std::size_t s = 0; s < cpu.losses.size(); ++s)
        EXPECT_NEAR(one.losses[s], cpu.losses[s], 2e-3 * cpu.losses[s]);
}

TEST(Equivalence, HoldsForABaseThatIsStreamedFromTheHost) {
    const ModelConfig tied = test::tied_config();
    const auto train = [](Variant variant, const ModelConfig& config, bool everything) {
        variant.dora = everything;
        // The base's embedding and head are then read one after the other.
        if (everything) variant.modules_to_save = {"embed_tokens", "lm_head"};
        return run(variant, 4, DType::kBF16, OptimizerKind::kAdamW, Quantization::kNf4, config);
    };
    for (const auto& [config, everything] :
         {std::pair(test::small_config(), false), {test::small_config(), true}, {tied, true}}) {
        const Outcome resident = train({.backend = "cpu"}, config, everything);
        for (const int ranks : {1, 3}) {
            SCOPED_TRACE(fmt::format("{} ranks", ranks));
            const Recompute recompute = ranks == 1 ? Recompute::kNever : Recompute::kAlways;
            const Outcome streamed = train(
                {ranks, 1, PlacementMode::kHostStreamed, recompute, "guarded"}, config, everything);
            EXPECT_EQ(streamed.adapter_sha256, resident.adapter_sha256);
            EXPECT_EQ(streamed.base, resident.base);
            EXPECT_EQ(streamed.losses, resident.losses);
            EXPECT_EQ(streamed.evaluated, resident.evaluated);
        }
    }
}

TEST(Equivalence, AStreamedBaseStaysBesideTheDevicesMemory) {
    const Variant replicated{1, 1, PlacementMode::kReplicated, Recompute::kAlways, gpu()};
    Variant streaming = replicated;
    streaming.placement = PlacementMode::kHostStreamed;
    const Outcome resident = run(replicated, 1), streamed = run(streaming, 1);
    EXPECT_EQ(streamed.adapter_sha256, resident.adapter_sha256);
    EXPECT_EQ(streamed.losses, resident.losses);
    EXPECT_EQ(streamed.evaluated, resident.evaluated);
    EXPECT_EQ(streamed.base, resident.base);
    EXPECT_EQ(resident.beside, 0u);
    EXPECT_EQ(streamed.beside, streamed.resident);
    EXPECT_EQ(streamed.resident, resident.resident);
}

TEST(Equivalence, AStreamedBaseGoesThroughAsManySlotsAsFit) {
    const ModelLayout layout = make_layout(test::small_config(), {});
    std::size_t bytes = 0;  // embedding, layers, head, layers
    for (const UnitLayout& unit : layout.units) bytes += 2 * unit.bytes;
    bytes -= layout.units[layout.embed_unit()].bytes + layout.units[layout.head_unit()].bytes;
    Variant variant{1, 1, PlacementMode::kHostStreamed, Recompute::kAlways, "guarded"};
    Outcome together = run(variant, 2);
    EXPECT_EQ(together.batch_slots, 3);
    // Smaller batches first: the base travels no more often for them.
    for (std::int64_t batch : {2, 1}) {
        variant.memory_limit = together.planned - 1;
        together = run(variant, 2);
        EXPECT_EQ(together.batch_slots, batch);
    }
    EXPECT_EQ(together.group_slots, 7);
    EXPECT_EQ(together.received, bytes);
    // The host's memory is what is planned here, so that the base is a part of it.
    EXPECT_EQ(together.beside, 0u);
    EXPECT_GT(together.planned, layout.bytes());
    variant.memory_limit = together.planned - 1;
    const Outcome apart = run(variant, 2);
    EXPECT_EQ(apart.group_slots, 4);
    EXPECT_LT(apart.planned, together.planned);
    EXPECT_EQ(apart.received, 2 * bytes);
    EXPECT_EQ(apart.adapter_sha256, together.adapter_sha256);
    EXPECT_EQ(apart.losses, together.losses);
}

/// Llama 3's shapes with 16 slots of 1024 tokens, on what is free of cards of 8 and 24 GB.
TEST(Equivalence, AStreamedBaseFitsWhereAResidentOneDoesNot) {
    struct Shape {
        std::int64_t layers, width, heads, ffn_width;
        std::size_t limit;
        std::int64_t group_slots;
    };
    for (const Shape& shape : {Shape{32, 4096, 32, 14336, std::size_t{7500} << 20, 6},
                               Shape{80, 8192, 64, 28672, std::size_t{22} << 30, 3}}) {
        ModelConfig config = test::small_config();
        config.layers = shape.layers;
        config.width = shape.width;
        config.heads = shape.heads;
        config.kv_heads = 8;
        config.head_width = config.ropes[0].rotary_width = 128;
        config.ffn_width = shape.ffn_width;
        config.vocabulary = 128256;
        config.layer.resize(static_cast<std::size_t>(shape.layers));
        AdapterOptions adapter;
        adapter.target_modules = {"all-linear"};
        TrainerOptions options;
        options.memory_limit = shape.limit;
        options.max_slot_tokens = 1024;
        options.max_step_slots = 16;
        run_threads(1, [&](Communicator& group) {
            const auto backend = test::make_backend(1, "emulated_cuda");
            const auto plan = [&] {
                return Trainer(*backend, group, config, {}, adapter, options);
            };
            try {
                plan();
                ADD_FAILURE() << "a resident base fits";
            } catch (const UserError& error) {
                EXPECT_NE(std::string(error.what()).find("placement.mode host_streamed ("),
                          std::string::npos)
                    << error.what();
            }
            options.placement = PlacementMode::kHostStreamed;
            const Trainer streamed = plan();
            EXPECT_LE(streamed.planned_bytes(), shape.limit);
            EXPECT_EQ(streamed.group_slots(), shape.group_slots);
            EXPECT_GE(streamed.host_bytes(), streamed.layout().bytes());
            const auto absent = make_planned_cuda_backend();
            EXPECT_EQ(Trainer(*absent, group, config, {}, adapter, options).planned_bytes(),
                      streamed.planned_bytes());
            options.host_memory_limit = streamed.host_bytes() - 1;
            EXPECT_THROW(plan(), UserError);
        });
    }
}

TEST(Equivalence, AStreamedBaseAnswersBesideTheTrainer) {
    const ModelConfig config = test::small_config();
    const test::SyntheticReader reader(config);
    const test::SyntheticBatches batches(config.vocabulary, 7, 24);
    std::vector<std::vector<float>> logits;
    for (const PlacementMode placement :
         {PlacementMode::kReplicated, PlacementMode::kHostStreamed}) {
        run_threads(1, [&](Communicator& group) {
            const auto backend = test::make_backend(1, "guarded");
            AdapterOptions adapter;
            adapter.target_modules = {"all-linear"};
            TrainerOptions options;
            options.placement = placement;
            options.max_slot_tokens = 24;
            options.max_step_slots = 7;
            Trainer trainer(*backend, group, config, {}, adapter, options);
            trainer.load(reader, 1, {});
            std::vector<float> values(static_cast<std::size_t>(trainer.adapter_layout().count));
            initialize_adapter(trainer.adapter_layout(), 42, values);
            trainer.set_adapter(values);
            trainer.step(batches, 0, 0, nullptr);
            DeviceArena arena(*backend);
            Inference inference(*backend, config, trainer.layout(), &trainer.adapter_layout(),
                                {DType::kBF16, 1, 32, 8}, arena);
            arena.commit();
            inference.start(trainer.weights(), trainer.adapter_values());
            std::vector<float>& all = logits.emplace_back();
            inference.score(batches.slot(1, 0).tokens, [&](std::int64_t, auto row) {
                all.insert(all.end(), row.begin(), row.end());
            });
            // And the trainer goes on.
            all.push_back(static_cast<float>(trainer.step(batches, 1, 1, nullptr).loss));
        });
    }
    EXPECT_GT(logits.at(0).size(), 1u);
    EXPECT_EQ(logits.at(0), logits.at(1));
}

TEST(Equivalence, AStreamedBaseIsForDevices) {
    try {
        run({1, 1, PlacementMode::kHostStreamed, Recompute::kNever, "reference"}, 1);
        FAIL() << "a base was streamed from the memory that it is computed in";
    } catch (const UserError& error) {
        EXPECT_EQ(error.code(), ExitCode::kUnavailable);
        EXPECT_NE(std::string(error.what()).find("Try placement.mode auto"), std::string::npos)
            << error.what();
    }
}

TEST(Equivalence, SlotsComputedTogetherHaveTheBitsOfEachAlone) {
    const ModelConfig mixture = test::mixture_config({1}), biased = test::biased_config();
    for (const ModelConfig& config : {test::small_config(), mixture, biased}) {
        for (const bool dora : {false, true}) {
            for (const double dropout : {0.0, 0.25}) {
                SCOPED_TRACE(fmt::format("{} dora {} dropout {}", config.family, dora, dropout));
                Variant variant{.backend = "guarded_slots", .dropout = dropout, .dora = dora};
                if (!config.gated_mlp) {
                    variant.bias = AdapterBias::kAll;
                    variant.modules_to_save = {"wte", "lm_head"};
                }
                const auto train = [&] {
                    return run(variant, 3, DType::kBF16, OptimizerKind::kAdamW, Quantization::kNf4,
                               config);
                };
                const Outcome apart = train();
                EXPECT_EQ(apart.batch_slots, 1);
                struct Way {
                    std::string_view backend;
                    PlacementMode placement;
                    Recompute recompute;
                    std::int64_t batch;
                };
                for (const Way& way :
                     {Way{"guarded", PlacementMode::kReplicated, Recompute::kAlways, 3},
                      {"guarded", PlacementMode::kHostStreamed, Recompute::kNever, 3},
                      {"cpu", PlacementMode::kReplicated, Recompute::kNever, 7}}) {
                    variant.backend = way.backend;
                    variant.placement = way.placement;
                    variant.recompute = way.recompute;
                    const Outcome together = train();
                    EXPECT_EQ(together.batch_slots, way.batch);
                    EXPECT_EQ(together.adapter_sha256, apart.adapter_sha256);
                    EXPECT_EQ(together.losses, apart.losses);
                    EXPECT_EQ(together.evaluated, apart.evaluated);
                }
            }
        }
    }
}

TEST(Equivalence, DropoutMasksBelongToTheSlotWhoeverComputesIt) {
    constexpr int kSteps = 4;
    const Outcome reference = run({.dropout = 0.25}, kSteps);
    for (const int ranks : {1, 2, 3, 6}) {
        for (const PlacementMode placement :
             {PlacementMode::kReplicated, PlacementMode::kGathered}) {
            for (const Recompute recompute : {Recompute::kNever, Recompute::kAlways}) {
                const Outcome other =
                    run({ranks, 1 + ranks % 2, placement, recompute, {}, 0.25}, kSteps);
                EXPECT_EQ(other.adapter_sha256, reference.adapter_sha256) << ranks;
                EXPECT_EQ(other.losses, reference.losses) << ranks;
            }
        }
    }
    EXPECT_EQ(run({.backend = guarded(), .dropout = 0.25}, kSteps).adapter_sha256,
              reference.adapter_sha256);
    EXPECT_NE(run({}, kSteps).adapter_sha256, reference.adapter_sha256);
    EXPECT_NE(run({.dropout = 0.25, .seed = 43}, kSteps).adapter_sha256, reference.adapter_sha256);
}

TEST(Equivalence, HoldsForDora) {
    const auto train = [](Variant variant, Quantization quantization, const ModelConfig& config,
                          int steps = 4) {
        variant.dora = true;
        return run(variant, steps, DType::kBF16, OptimizerKind::kAdamW, quantization, config);
    };
    const ModelConfig mixture = test::mixture_config({0}), branches = test::post_norm_config(),
                      fused = test::fused_config();
    for (const ModelConfig& config : {test::small_config(), mixture, branches, fused}) {
        SCOPED_TRACE(config.family);
        for (const auto& [quantization, dropout] : {std::pair{Quantization::kNf4, 0.0},
                                                    {Quantization::kInt8, 0.0},
                                                    {Quantization::kNf4, 0.25}}) {
            SCOPED_TRACE(dropout);
            const Outcome one = train({.dropout = dropout}, quantization, config);
            for (Variant variant :
                 {Variant{1, 2, PlacementMode::kReplicated, Recompute::kAlways},
                  Variant{2, 1, PlacementMode::kReplicated, Recompute::kAlways},
                  Variant{3, 2, PlacementMode::kGathered, Recompute::kNever},
                  Variant{4, 1, PlacementMode::kGathered, Recompute::kAlways, guarded()},
                  Variant{8, 1, PlacementMode::kReplicated, Recompute::kNever}}) {
                variant.dropout = dropout;
                const Outcome other = train(variant, quantization, config);
                EXPECT_EQ(other.adapter_sha256, one.adapter_sha256) << variant.ranks << " ranks";
                EXPECT_EQ(other.losses, one.losses) << variant.ranks << " ranks";
            }
        }
    }
    for (const double dropout : {0.0, 0.25}) {
        const Outcome cpu =
            train({.backend = "cpu", .dropout = dropout}, Quantization::kNf4, fused, 2);
        const Outcome one =
            train({.backend = gpu(), .dropout = dropout}, Quantization::kNf4, fused, 2);
        const Outcome two =
            train({2, 1, PlacementMode::kGathered, Recompute::kAlways, gpu(), dropout},
                  Quantization::kNf4, fused, 2);
        EXPECT_EQ(one.adapter_sha256, two.adapter_sha256);
        EXPECT_EQ(one.losses, two.losses);
        for (std::size_t s = 0; s < cpu.losses.size(); ++s)
            EXPECT_NEAR(one.losses[s], cpu.losses[s], 2e-3 * cpu.losses[s]);
    }
    EXPECT_NE(train({.dropout = 0.25}, Quantization::kNf4, fused, 2).adapter_sha256,
              train({}, Quantization::kNf4, fused, 2).adapter_sha256);
    EXPECT_NE(run({}, 4).adapter_sha256,
              train({}, Quantization::kNf4, test::small_config()).adapter_sha256);
}

TEST(Equivalence, HoldsForWeightsOfTheBaseThatAreTrained) {
    const ModelConfig tied = test::tied_config();
    const ModelConfig biased = test::biased_config();
    for (const ModelConfig& config : {tied, biased}) {
        SCOPED_TRACE(config.family);
        const auto train = [&](Variant variant, int steps = 4) {
            variant.modules_to_save = {config.tied_head ? "embed_tokens" : "wte", "lm_head"};
            variant.bias = AdapterBias::kAll;
            return run(variant, steps, DType::kBF16, OptimizerKind::kAdamW, Quantization::kNf4,
                       config);
        };
        const Outcome one = train({});
        for (const Variant& variant :
             {Variant{1, 3, PlacementMode::kReplicated, Recompute::kAlways},
              Variant{2, 1, PlacementMode::kReplicated, Recompute::kAlways},
              Variant{3, 2, PlacementMode::kGathered, Recompute::kNever},
              Variant{4, 1, PlacementMode::kGathered, Recompute::kAlways, guarded()},
              Variant{6, 2, PlacementMode::kGathered, Recompute::kNever},
              Variant{8, 1, PlacementMode::kReplicated, Recompute::kNever}}) {
            const Outcome other = train(variant);
            EXPECT_EQ(other.adapter_sha256, one.adapter_sha256) << variant.ranks << " ranks";
            EXPECT_EQ(other.losses, one.losses) << variant.ranks << " ranks";
        }
        if (config.tied_head) continue;
        const Outcome on_gpu = train({.backend = gpu()}, 2);
        const Outcome two = train({2, 1, PlacementMode::kGathered, Recompute::kAlways, gpu()}, 2);
        EXPECT_EQ(on_gpu.adapter_sha256, two.adapter_sha256);
        EXPECT_EQ(on_gpu.losses, two.losses);
        for (std::size_t s = 0; s < on_gpu.losses.size(); ++s)
            EXPECT_NEAR(on_gpu.losses[s], one.losses[s], 2e-3 * one.losses[s]);
    }
}

TEST(Equivalence, HoldsInFp32AndForEveryOptimizer) {
    for (const OptimizerKind kind :
         {OptimizerKind::kAdamW, OptimizerKind::kSgd, OptimizerKind::kRmsProp}) {
        const Outcome one = run({}, 3, DType::kF32, kind);
        const Outcome three =
            run({3, 2, PlacementMode::kGathered, Recompute::kAlways}, 3, DType::kF32, kind);
        EXPECT_EQ(one.adapter_sha256, three.adapter_sha256);
        EXPECT_EQ(one.losses, three.losses);
    }
}

TEST(Equivalence, HoldsForEveryQuantization) {
    for (const Quantization quantization :
         {Quantization::kFp4, Quantization::kInt8, Quantization::kNone}) {
        SCOPED_TRACE(name_of(quantization));
        const auto train = [&](const Variant& variant) {
            return run(variant, 3, DType::kBF16, OptimizerKind::kAdamW, quantization);
        };
        const Outcome one = train({});
        for (const Variant& variant :
             {Variant{2, 1, PlacementMode::kReplicated, Recompute::kAlways},
              Variant{3, 2, PlacementMode::kGathered, Recompute::kNever},
              Variant{8, 1, PlacementMode::kGathered, Recompute::kAlways}}) {
            const Outcome other = train(variant);
            EXPECT_EQ(other.adapter_sha256, one.adapter_sha256) << variant.ranks << " ranks";
            EXPECT_EQ(other.base, one.base) << variant.ranks << " ranks";
        }
    }
}

TEST(Equivalence, HoldsForMixturesOfExpertsFusedProjectionsAndNormsOfBranches) {
    ModelConfig mixture = test::mixture_config({0, 2});
    mixture.normalized_experts = true;
    const ModelConfig fused = test::fused_config(), branches = test::post_norm_config();
    for (const ModelConfig& config : {mixture, fused, branches}) {
        const Outcome one =
            run({}, 4, DType::kBF16, OptimizerKind::kAdamW, Quantization::kNf4, config);
        for (const Variant& variant :
             {Variant{2, 2, PlacementMode::kGathered, Recompute::kAlways},
              Variant{3, 1, PlacementMode::kGathered, Recompute::kNever},
              Variant{4, 1, PlacementMode::kReplicated, Recompute::kAuto},
              Variant{1, 3, PlacementMode::kReplicated, Recompute::kAlways}}) {
            const Outcome other =
                run(variant, 4, DType::kBF16, OptimizerKind::kAdamW, Quantization::kNf4, config);
            EXPECT_EQ(other.adapter_sha256, one.adapter_sha256) << config.family;
            EXPECT_EQ(other.base, one.base) << config.family;
            EXPECT_EQ(other.losses, one.losses) << config.family;
        }
    }
    const auto on = [&](std::string_view backend, int ranks) {
        const PlacementMode placement =
            ranks > 1 ? PlacementMode::kGathered : PlacementMode::kReplicated;
        return run({ranks, 1, placement, Recompute::kAlways, backend}, 2, DType::kBF16,
                   OptimizerKind::kAdamW, Quantization::kNf4, mixture);
    };
    const Outcome cpu = on("cpu", 1), on_gpu = on(gpu(), 1);
    EXPECT_EQ(on("guarded", 2).adapter_sha256, cpu.adapter_sha256);
    EXPECT_EQ(on(gpu(), 2).adapter_sha256, on_gpu.adapter_sha256);
    for (std::size_t s = 0; s < cpu.losses.size(); ++s)
        EXPECT_NEAR(on_gpu.losses[s], cpu.losses[s], 2e-3 * cpu.losses[s]);
}

TEST(Equivalence, AStepIssuesThePlannedGathersAndOneReduction) {
    const std::uint64_t units_per_step =
        1 + 3 + 1 + 3;  // embed, layers forward, head, layers backward
    const Outcome gathered = run({4, 1, PlacementMode::kGathered, Recompute::kAlways}, 3);
    EXPECT_EQ(gathered.gathers,
              3 * (units_per_step + 1));  // and the all-gather that ends the reduction
    EXPECT_EQ(gathered.exchanges, 3u);
    const Outcome replicated = run({4, 1, PlacementMode::kReplicated, Recompute::kNever}, 3);
    EXPECT_EQ(replicated.gathers, 3u);
    EXPECT_EQ(replicated.exchanges, 3u);
    const Outcome alone = run({1, 1, PlacementMode::kReplicated, Recompute::kNever}, 3);
    EXPECT_EQ(alone.gathers + alone.exchanges, 0u);
    const Outcome two = run({2, 1, PlacementMode::kGathered, Recompute::kAlways}, 1);
    EXPECT_NEAR(static_cast<double>(two.resident) / static_cast<double>(alone.resident), 0.5,
                0.025);
}

TEST(Equivalence, APlanThatDoesNotFitIsRefusedWithWhatWould) {
    const ModelConfig config = test::small_config();
    run_threads(1, [&](Communicator& group) {
        const auto backend = test::make_backend(1);
        TrainerOptions options;
        options.max_slot_tokens = 1024;  // each for itself
        options.max_step_slots = 4;
        options.recompute = Recompute::kNever;
        AdapterOptions adapter;
        adapter.target_modules = {"q_proj"};
        const Trainer large(*backend, group, config, {}, adapter, options);
        options.memory_limit = large.planned_bytes() - 1;
        try {
            const Trainer small(*backend, group, config, {}, adapter, options);
            FAIL() << "a plan above the limit was accepted";
        } catch (const UserError& error) {
            EXPECT_EQ(error.code(), ExitCode::kUnavailable);
            EXPECT_NE(std::string(error.what()).find("Try train.recompute always"),
                      std::string::npos)
                << error.what();
        }
        options.recompute = Recompute::kAuto;
        const Trainer fitting(*backend, group, config, {}, adapter, options);
        EXPECT_GT(fitting.recomputed_layers(), 0);
        EXPECT_LE(fitting.planned_bytes(), options.memory_limit);
        options.saves = true;
        options.memory_limit = 0;
        options.recompute = Recompute::kNever;
        const Trainer saving(*backend, group, config, {}, adapter, options);
        // Three times the values, and both moments.
        EXPECT_EQ(saving.planned_bytes() - large.planned_bytes(),
                  static_cast<std::size_t>(saving.adapter_layout().count) * 4 * (3 + 2));
    });
}

}  // namespace
}  // namespace qshard
