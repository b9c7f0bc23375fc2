#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <mutex>

#include "../unit/formats/gguf_builder.h"
#include "comm/threads.h"
#include "golden_files.h"
#include "io/formats/model_reader.h"
#include "io/formats/weight_store.h"
#include "main/make_store.h"
#include "synthetic.h"
#include "tests/temp_folder.h"
#include "train/trainer.h"

/// `qshard quantize` and runs from what it writes.
namespace qshard {
namespace {

namespace fs = std::filesystem;

fs::path golden(const std::string& name) {
    return fs::path(QSHARD_TEST_DATA) / "golden" / name;
}

fs::path store_of(const fs::path& model, const fs::path& folder,
                  std::optional<Quantization> quantization = {}) {
    StoreRequest request;
    request.model = model;
    request.store = folder / "model.qs";
    request.quantization = quantization;
    request.threads = 2;
    request.made_by = "test";
    const StoreResult result = make_store(request, {});
    EXPECT_GT(result.weights, 0);
    return request.store;
}

struct Outcome {
    std::string adapter, base;
    bool operator==(const Outcome&) const = default;
};

Outcome train(const fs::path& model, int ranks, PlacementMode placement,
              Quantization quantization) {
    Outcome outcome;
    std::mutex mutex;
    run_threads(ranks, [&](Communicator& group) {
        const auto reader = open_model(model);
        const auto backend = test::make_backend(1);
        const test::SyntheticBatches batches(reader->config().vocabulary, 5, 24);
        TrainerOptions options;
        options.placement = placement;
        options.max_slot_tokens = 24;
        options.max_step_slots = 5;
        options.schedule = {LrScheduler::kConstant, 5e-3, 0, 2};
        AdapterOptions adapter;
        adapter.r = 4;
        adapter.target_modules = {"all-linear"};
        Trainer trainer(*backend, group, reader->config(),
                        layout_options_for(*reader, quantization, true, DType::kBF16), adapter,
                        options);
        trainer.load(*reader, 2, {});
        std::vector<float> values(static_cast<std::size_t>(trainer.adapter_layout().count));
        initialize_adapter(trainer.adapter_layout(), 42, values);
        trainer.set_adapter(values);
        for (int s = 0; s < 2; ++s) trainer.step(batches, s, s, nullptr);
        const std::string base = trainer.base_fingerprint();
        const std::vector<float> trained = trainer.adapter();
        const std::lock_guard lock(mutex);
        outcome = {sha256_hex(std::as_bytes(std::span(trained))), base};
    });
    return outcome;
}

TEST(WeightStore, TrainingFromItGivesTheSameBits) {
    struct Case {
        fs::path model;
        Quantization quantization;
    };
    for (const Case& c : {Case{golden("tiny/llama"), Quantization::kNf4},
                          {golden("tiny/gemma2"), Quantization::kInt8},
                          {golden("tiny/llama_tied"), Quantization::kNone},
                          {golden("bnb/nf4"), Quantization::kNf4},
                          {golden("bnb/fp4"), Quantization::kFp4}}) {
        SCOPED_TRACE(c.model.string());
        const test::TempFolder folder;
        const Outcome source = train(c.model, 1, PlacementMode::kReplicated, c.quantization);
        const fs::path store = store_of(c.model, folder.path(), c.quantization);
        for (const int ranks : {1, 2, 3}) {
            EXPECT_EQ(train(store, ranks, PlacementMode::kReplicated, c.quantization), source);
            EXPECT_EQ(train(store, ranks, PlacementMode::kGathered, c.quantization), source);
        }
    }
}

TEST(WeightStore, NeedsNothingOfTheModelAnyMore) {
    const test::TempFolder folder;
    const fs::path model = folder.path() / "model";
    fs::copy(golden("tiny/llama"), model);
    std::ofstream(model / "tokenizer.json") << R"({"a": 1})";
    std::ofstream(model / "tokenizer_config.json") << R"({"chat_template": "T"})";
    const ModelSource source = open_model_source(model);
    const fs::path store_path = store_of(model, folder.path());
    fs::remove_all(model);
    const ModelSource store = open_model_source(store_path);
    EXPECT_EQ(store.kind, "store");
    EXPECT_EQ(store.chat_templates.at("default"), "T");
    ASSERT_TRUE(store.tokenizer_json.has_value());
    EXPECT_EQ(store.tokenizer_json->text, R"({"a": 1})");
    EXPECT_EQ(store.weights->sha256(), source.weights->sha256());
    EXPECT_EQ(store.weights->config().eos_ids, source.weights->config().eos_ids);
    EXPECT_EQ(*quantized_form_of(*store.weights), (WeightForm{Storage::kNf4, true}));
    // What is not quantized reads as it was, up to the rounding of storage; the model is bfloat16.
    const WeightSpec embed = embedding_weights(store.weights->config()).front();
    const auto want = [&] {
        std::vector<float> values(100);
        open_model(golden("tiny/llama"))->read(embed, 31, values);
        return values;
    }();
    std::vector<float> values(100);
    store.weights->read(embed, 31, values);
    EXPECT_EQ(values, want);
}

TEST(WeightStore, KeepsAGgufModelInOneFileOrSeveral) {
    const test::TempFolder folder;
    const testing::GgufBuilder whole = testing::tiny_llama(3);
    const fs::path one = folder.write("one.gguf", whole.bytes());
    std::vector<fs::path> several;
    for (const testing::GgufBuilder& part : testing::split_gguf(whole, 3)) {
        const std::size_t number = several.size() + 1;
        several.push_back(
            folder.write(fmt::format("cut-{:05}-of-00003.gguf", number), part.bytes()));
    }
    const Outcome source = train(one, 1, PlacementMode::kReplicated, Quantization::kNf4);
    for (const fs::path& model : {one, several.front()}) {
        SCOPED_TRACE(model.string());
        EXPECT_EQ(train(model, 2, PlacementMode::kGathered, Quantization::kNf4), source);
        const std::string sum = open_model(model)->sha256();
        const fs::path store = store_of(model, folder.path());
        for (const fs::path& file : model == one ? std::vector<fs::path>{one} : several)
            fs::remove(file);
        EXPECT_EQ(open_model(store)->sha256(), sum);
        EXPECT_EQ(train(store, 2, PlacementMode::kReplicated, Quantization::kNf4), source);
    }
}

void expect_message(const std::function<void()>& action, const std::string& part) {
    try {
        action();
        ADD_FAILURE() << "accepted; expected: " << part;
    } catch (const UserError& error) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
}

TEST(WeightStore, OtherSettingsAreRefusedByName) {
    const test::TempFolder folder;
    const fs::path store = store_of(golden("tiny/llama"), folder.path());
    const auto reader = open_model(store);
    expect_message([&] { layout_options_for(*reader, Quantization::kInt8, true, DType::kBF16); },
                   "holds nf4 with other weights in bfloat16, but int8 and bfloat16");
    expect_message([&] { layout_options_for(*reader, Quantization::kNf4, true, DType::kF32); },
                   "--compute-dtype float32");
    expect_message([&] { store_of(store, folder.path() / "again"); }, "a weight store already");
}

TEST(WeightStore, EveryTruncationAndEveryFlippedByteIsFound) {
    const test::TempFolder folder;
    const fs::path store = store_of(golden("tiny/llama"), folder.path());
    const std::string whole = test::read_text(store.string());
    const fs::path damaged = folder.path() / "damaged.qs";
    const auto write = [&](const std::string& content) {
        std::ofstream(damaged, std::ios::binary | std::ios::trunc) << content;
    };
    for (std::size_t bytes = 0; bytes < whole.size(); bytes += bytes < 8200 ? 511 : 4999) {
        write(whole.substr(0, bytes));
        EXPECT_THROW(open_model(damaged), UserError) << bytes << " bytes";
    }
    write(whole + "x");
    EXPECT_THROW(open_model(damaged), UserError);
    const StoreTable table = WeightStore{InputFile(store)}.table();
    EXPECT_TRUE(WeightStore{InputFile(store)}.damages().empty());
    for (std::size_t u = 0; u < table.units.size(); ++u) {
        for (const std::uint64_t at :
             {std::uint64_t{0}, table.units[u].bytes / 2, table.units[u].bytes - 1}) {
            std::string flipped = whole;
            flipped[static_cast<std::size_t>(table.units[u].offset + at)] ^= 4;
            write(flipped);
            const std::vector<std::string> found = WeightStore{InputFile(damaged)}.damages();
            ASSERT_EQ(found.size(), 1u);
            EXPECT_NE(found[0].find("unit " + table.units[u].name), std::string::npos) << found[0];
            expect_message([&] { train(damaged, 2, PlacementMode::kGathered, Quantization::kNf4); },
                           "unit " + table.units[u].name);
        }
    }
    StoreTable uneven = table;
    uneven.units[0].bytes -= 4;
    expect_message([&] { parse_store_table(store_table_text(uneven), whole.size(), "uneven"); },
                   "whole words");
    // The table and the end, byte by byte.
    for (std::size_t at = whole.size() - 200; at < whole.size(); ++at) {
        std::string flipped = whole;
        flipped[at] ^= 16;
        write(flipped);
        EXPECT_THROW(open_model(damaged), UserError) << at;
    }
}

}  // namespace
}  // namespace qshard
