#include <gtest/gtest.h>

#include "comm/threads.h"
#include "equivalence.h"

/// The signature promise: the adapter's bits after some steps are one value whatever the ranks, the
/// placement, the threads and the recomputation.
namespace qshard {
namespace {

using test::gpu, test::guarded, test::Outcome, test::run, test::Variant;

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
