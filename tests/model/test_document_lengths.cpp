#include <gtest/gtest.h>

#include "equivalence.h"
#include "tiny_model.h"

/// Models whose rotary positions depend on the length of a document: each has those that
/// transformers gives it alone, whatever it is packed or answered with.
namespace qshard {
namespace {

using test::compare_gradients, test::documents_of, test::TinyModel;

constexpr std::int64_t kOriginal = 11;  // the models' original length

class DocumentLengths : public testing::TestWithParam<std::string> {};

/// Of every document; its last position has none.
void compare_logits(const std::string& name, const std::string& adapter, const std::string& key) {
    TinyModel model(name, Quantization::kNone, adapter);
    const std::vector<float> all =
        test::read_floats(model.folder() + "/golden.safetensors").at("logits." + key);
    DeviceArena arena(model.backend());
    Inference inference(model.backend(), model.config(), model.layout(), model.adapter(),
                        {DType::kF32, 1, 20, 5}, arena);
    arena.commit();
    inference.start(model.source(), model.values());
    std::span<const float> want = all;
    float largest = 0, worst = 0;
    for (const EncodedRow& row : documents_of(model, "")) {
        std::int64_t visited = 0;
        inference.score(row.ids, [&](std::int64_t position, std::span<const float> logits) {
            const std::size_t begin = static_cast<std::size_t>(position) * logits.size();
            for (std::size_t i = 0; i < logits.size(); ++i) {
                largest = std::max(largest, std::abs(want[begin + i]));
                worst = std::max(worst, std::abs(logits[i] - want[begin + i]));
            }
            ++visited;
        });
        EXPECT_EQ(visited, std::ssize(row.ids) - 1);
        want = want.subspan(row.ids.size() * static_cast<std::size_t>(model.config().vocabulary));
    }
    EXPECT_TRUE(want.empty());
    EXPECT_LE(worst, 1e-4f * largest) << name << " " << key;
}

TEST_P(DocumentLengths, LogitsBelowAtAndBeyondTheOriginalLengthEqualTransformers) {
    compare_logits(GetParam(), "", "base");
    compare_logits(GetParam(), "adapter", "lora_fp32");
}

TEST_P(DocumentLengths, LossAndGradientsOfPackedDocumentsEqualPeftsOfEachAlone) {
    compare_gradients(GetParam(), Quantization::kNone, "adapter", "", "lora_fp32", "fp32");
}

/// Log-probabilities of each slot's targets.
std::vector<std::vector<float>> evaluate(TinyModel& model, std::span<const Slot> slots,
                                         std::int64_t batch_slots) {
    DeviceArena arena(model.backend());
    RunnerOptions options;
    options.compute = DType::kBF16;
    options.max_tokens = 64;
    options.max_group_slots = std::ssize(slots);
    options.max_batch_slots = batch_slots;
    options.backward = false;
    SlotRunner runner(model.backend(), model.config(), model.layout(), model.adapter(), options,
                      arena);
    arena.commit();
    runner.start(model.source(), model.values());
    std::vector<std::vector<float>> logprobs(slots.size());
    runner.evaluate(slots, [&](std::size_t index, std::span<const float> logprob) {
        logprobs[index].assign(logprob.begin(), logprob.end());
    });
    return logprobs;
}

TEST_P(DocumentLengths, PackedDocumentsHaveTheBitsOfEachAlone) {
    TinyModel model(GetParam(), Quantization::kNf4, "adapter", DType::kBF16);
    const std::vector<EncodedRow> rows = documents_of(model, "");
    std::vector<Slot> alone;
    std::vector<float> each;
    for (const EncodedRow& row : rows) alone.push_back(evaluation_slots({&row, 1}, 64).at(0));
    for (const std::int64_t together : {1, 2, 5}) {
        std::vector<float> all;
        for (const std::vector<float>& logprob : evaluate(model, alone, together))
            all.insert(all.end(), logprob.begin(), logprob.end());
        if (each.empty()) each = all;
        EXPECT_EQ(all, each) << together << " slots together";
    }
    const std::vector<Slot> packed = evaluation_slots(rows, 64);
    ASSERT_EQ(packed.size(), 1u);
    EXPECT_EQ(evaluate(model, packed, 1).at(0), each);
}

TEST_P(DocumentLengths, AnswersBelowAcrossAndBeyondTheOriginalLengthEqualTransformers) {
    TinyModel model(GetParam(), Quantization::kNone, "");
    std::vector<std::vector<std::int32_t>> prompts, wanted;
    const auto golden = test::read_json(model.folder() + "/golden.json");
    for (const auto& one : golden.at("answers").as_array()) {
        prompts.push_back(test::int_list(one.at("prompt")));
        wanted.push_back(test::int_list(one.at("answer")));
    }
    // Together and by themselves, whole prompts in a pass and some tokens of one.
    for (const auto& [sequences, tokens] : {std::pair{4, 40}, {2, 5}, {1, 40}, {1, 3}}) {
        DeviceArena arena(model.backend());
        Inference inference(model.backend(), model.config(), model.layout(), nullptr,
                            {DType::kF32, sequences, 24, tokens}, arena);
        arena.commit();
        inference.start(model.source(), nullptr);
        SamplingOptions sampling;
        sampling.max_new_tokens = 12;
        auto answers = inference.generate(prompts, sampling);
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            ASSERT_GE(answers[i].size(), wanted[i].size());
            answers[i].resize(wanted[i].size());
            EXPECT_EQ(answers[i], wanted[i]) << "prompt " << i << ", " << sequences << " sequences";
        }
    }
}

class LengthEquivalence : public testing::TestWithParam<std::string> {};

TEST_P(LengthEquivalence, AnAdapterDependsOnNeitherRanksNorPlacementNorSlotsComputedTogether) {
    ModelConfig config = test::small_config();
    config.ropes = TinyModel(GetParam(), Quantization::kNone, "").config().ropes;
    const auto train = [&](const test::Variant& variant, int steps = 2) {
        return test::run(variant, steps, DType::kBF16, OptimizerKind::kAdamW, Quantization::kNf4,
                         config);
    };
    const test::Outcome one = train({.backend = "cpu"});
    for (const test::Variant& variant :
         {test::Variant{1, 1, PlacementMode::kReplicated, Recompute::kAlways, "guarded_slots"},
          test::Variant{1, 1, PlacementMode::kHostStreamed, Recompute::kNever, "guarded"},
          test::Variant{2, 2, PlacementMode::kReplicated, Recompute::kNever, "cpu"},
          test::Variant{3, 1, PlacementMode::kGathered, Recompute::kAlways, "guarded"}}) {
        const test::Outcome other = train(variant);
        EXPECT_EQ(other.adapter_sha256, one.adapter_sha256) << variant.ranks << " ranks";
        EXPECT_EQ(other.losses, one.losses) << variant.ranks << " ranks";
        EXPECT_EQ(other.evaluated, one.evaluated) << variant.ranks << " ranks";
    }
    const test::Outcome gpu = train({.backend = test::gpu()}, 1);
    const test::Variant two{2, 1, PlacementMode::kGathered, Recompute::kAlways, test::gpu()};
    EXPECT_EQ(train(two, 1).adapter_sha256, gpu.adapter_sha256);
    EXPECT_NEAR(gpu.losses[0], one.losses[0], 2e-3 * one.losses[0]);
    config.ropes[0].kind = RopeKind::kDefault;
    EXPECT_NE(train({.backend = "cpu"}).adapter_sha256, one.adapter_sha256);
}

/// Only tables that a document can need are planned: two of longrope, of dynamic one and a row for
/// each token.
TEST_P(DocumentLengths, TablesTakeWhatIsPlanned) {
    const TinyModel model(GetParam(), Quantization::kNone, "");
    const std::int64_t half = model.config().ropes.at(0).rotary_width / 2;
    const auto bytes = [&](std::int64_t rows) {
        return 2 * Scratch::aligned(static_cast<std::size_t>(rows * half) * sizeof(float));
    };
    const bool dynamic = model.config().ropes.at(0).kind == RopeKind::kDynamic;
    EXPECT_EQ(Rotary::bytes(model.config(), {kOriginal, 100}), bytes(kOriginal));
    EXPECT_EQ(Rotary::bytes(model.config(), {30, 100}), bytes(kOriginal + (dynamic ? 100 : 30)));
}

INSTANTIATE_TEST_SUITE_P(Models, DocumentLengths,
                         testing::Values("phi3_longrope", "llama_longrope", "llama_dynamic"),
                         [](const auto& model) { return model.param; });
INSTANTIATE_TEST_SUITE_P(Models, LengthEquivalence,
                         testing::Values("phi3_longrope", "llama_dynamic"),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace qshard
