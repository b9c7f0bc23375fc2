#include <gtest/gtest.h>

#include "comm/threads.h"
#include "equivalence.h"
#include "train/inference.h"

/// The signature promise for a base that stays in the host's memory.
namespace qshard {
namespace {

using test::gpu, test::Outcome, test::run, test::Variant;

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

}  // namespace
}  // namespace qshard
