#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "base/dtype.h"
#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/store.h"
#include "io/formats/safetensors_writer.h"
#include "io/peft/adapter_folder.h"
#include "main/adapter_file.h"
#include "main/random_model.h"
#include "tests/temp_folder.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

ModelConfig small(std::int64_t width) {
    ModelConfig config = config_of_shape("135m");
    config.layers = 2;
    config.layer.resize(2);
    config.width = width;
    config.ffn_width = 96;
    config.vocabulary = 64;
    return config;
}

class AdapterFileTest : public testing::Test {
  protected:
    void SetUp() override { make_adapter(false); }
    void make_adapter(bool dora) { make_adapter(dora, model_); }
    void make_adapter(bool dora, const WeightReader& model) {
        AdapterOptions options;
        options.r = 4;
        options.use_dora = dora;
        options.target_modules = {"q_proj", "down_proj"};
        state_ = {};
        layout_ = make_adapter_layout(model.config(), options);
        state_.adapter.resize(static_cast<std::size_t>(layout_.count));
        std::iota(state_.adapter.begin(), state_.adapter.end(), 0.0f);
        for (const AdapterTarget& t : layout_.targets) {
            for (const AdapterTensor& tensor : tensors_of(t))
                state_.tensors.push_back({tensor.name, tensor.shape, tensor.offset, 0, 0});
        }
        PeftConfig config;
        config.r = 4;
        config.alpha = 32;
        config.use_dora = dora;
        config.target_modules = {"q_proj", "down_proj"};
        state_.adapter_config_json = peft_config_text(config);
        state_.identity["base_sha256"] = model_.sha256();
        state_.step = 3;
        state_.optimizer_name = "adamw";
        state_.created = utc_now();
    }

    test::TempFolder temporary_;
    const fs::path folder_ = temporary_.path();
    RandomWeights model_{small(576)};
    AdapterLayout layout_;
    CheckpointState state_;
};

TEST_F(AdapterFileTest, CheckpointAndPeftFolderGiveTheSameNumbers) {
    CheckpointStore(folder_ / "checkpoints").save(state_);
    write_peft_adapter(folder_ / "adapter", state_);
    for (const fs::path& path :
         {folder_, folder_ / "adapter", folder_ / "checkpoints/step-00000003.h5",
          folder_ / "checkpoints"}) {
        const AdapterFile file = read_adapter_file(path);
        const AdapterLayout layout = fit_adapter(file, model_);
        EXPECT_EQ(layout.count, layout_.count) << path;
        EXPECT_EQ(flat_values(file, layout), state_.adapter) << path;
        EXPECT_EQ(layout.targets[0].scale, 8.0f) << path;
    }
    EXPECT_EQ(read_adapter_file(folder_).path, folder_ / "adapter");
    EXPECT_EQ(read_newest_checkpoint(folder_).state.step, 3);
}

TEST_F(AdapterFileTest, MagnitudesOfDoraAreReadFromBoth) {
    make_adapter(true);
    CheckpointStore(folder_ / "checkpoints").save(state_);
    write_peft_adapter(folder_ / "adapter", state_);
    for (const fs::path& path : {folder_ / "adapter", folder_ / "checkpoints"}) {
        const AdapterFile file = read_adapter_file(path);
        const AdapterLayout layout = fit_adapter(file, model_);
        EXPECT_TRUE(layout.options.use_dora) << path;
        EXPECT_EQ(layout.rows, layout_.rows) << path;
        EXPECT_EQ(flat_values(file, layout), state_.adapter) << path;
    }
}

TEST_F(AdapterFileTest, TextPartAndModelThatAlsoTakesImagesShareAdapters) {
    ModelConfig config = small(576);
    const RandomWeights text(config);
    config.wrapped = true;
    const RandomWeights whole(config);
    const std::string named_whole = "base_model.model.model.language_model.layers.1.";
    for (const auto& [trained, used] : {std::pair(&text, &whole), {&whole, &text}}) {
        make_adapter(false, *trained);
        write_peft_adapter(folder_ / "adapter", state_);
        const AdapterFile file = read_adapter_file(folder_ / "adapter");
        const AdapterLayout layout = fit_adapter(file, *used);
        EXPECT_EQ(flat_values(file, layout), state_.adapter);
        const bool as_whole = tensors_of(layout).back().name.starts_with(named_whole);
        EXPECT_EQ(as_whole, trained == &whole);
        const AdapterTarget& last = layout.targets.back();
        EXPECT_EQ(layout.find(1, Role::kDown), &last);
    }
}

TEST_F(AdapterFileTest, ModulesThatTheConfigurationChoosesMustBeThere) {
    // All tensors of layer 1's q_proj are gone.
    CheckpointState partial = state_;
    std::erase_if(partial.tensors, [](const NamedTensor& tensor) {
        return tensor.name.find("layers.1.self_attn.q_proj") != std::string::npos;
    });
    write_peft_adapter(folder_ / "adapter", partial);
    const auto message = [&] {
        try {
            fit_adapter(read_adapter_file(folder_ / "adapter"), model_);
        } catch (const UserError& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_NE(message().find("lacks 1 of the 4 modules"), std::string::npos) << message();
    EXPECT_NE(message().find("model.layers.1.self_attn.q_proj"), std::string::npos) << message();
    // Where the configuration chooses no more than is there, nothing lacks.
    PeftConfig config = parse_peft_config(partial.adapter_config_json, "test");
    config.target_modules.clear();
    config.target_pattern = R"(.*(down_proj|layers\.0\.self_attn\.q_proj))";
    partial.adapter_config_json = peft_config_text(config);
    write_peft_adapter(folder_ / "adapter", partial);
    EXPECT_EQ(message(), "");
}

TEST_F(AdapterFileTest, EmbeddingsBesideAnAdapterMustBeTheBases) {
    const WeightSpec embedding = embedding_weights(model_.config()).front();
    std::vector<float> values(static_cast<std::size_t>(embedding.count()));
    model_.read(embedding, 0, values);
    const auto outcome = [&](std::vector<float> copy, std::int64_t rows) {
        write_peft_adapter(folder_ / "adapter", state_);
        std::vector<FloatTensorView> views;
        for (const NamedTensor& tensor : state_.tensors) {
            views.push_back({tensor.name, tensor.shape,
                             std::span(state_.adapter)
                                 .subspan(static_cast<std::size_t>(tensor.offset),
                                          static_cast<std::size_t>(tensor.count()))});
        }
        copy.resize(static_cast<std::size_t>(rows * embedding.cols));
        views.push_back(
            {"base_model.model.model.embed_tokens.weight", {rows, embedding.cols}, copy});
        write_file_atomic(folder_ / "adapter/adapter_model.safetensors",
                          safetensors_bytes(std::move(views)));
        try {
            const AdapterFile file = read_adapter_file(folder_ / "adapter");
            EXPECT_EQ(flat_values(file, fit_adapter(file, model_)), state_.adapter);
        } catch (const UserError& error) {
            return std::string(error.what());
        }
        return std::string("fits");
    };
    EXPECT_EQ(outcome(values, embedding.rows), "fits");
    const std::string resized = outcome(values, embedding.rows + 2);
    EXPECT_NE(resized.find("resize_token_embeddings(66)"), std::string::npos) << resized;
    std::vector<float> trained = values;
    trained[5] += 0.25f;
    EXPECT_NE(outcome(trained, embedding.rows).find("modules_to_save"), std::string::npos);
    for (float& value : values) value = to_float(to_bf16(value));
    EXPECT_EQ(outcome(values, embedding.rows), "fits") << "as a base loaded in bf16 has it";
}

TEST_F(AdapterFileTest, AnotherModelIsRefusedWithBothShapes) {
    write_peft_adapter(folder_ / "adapter", state_);
    const AdapterFile file = read_adapter_file(folder_ / "adapter");
    try {
        fit_adapter(file, RandomWeights(small(640)));
        FAIL() << "an adapter of width 576 was taken for a model of width 640";
    } catch (const UserError& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("[4, 576]"), std::string::npos) << message;
        EXPECT_NE(message.find("[4, 640]"), std::string::npos) << message;
    }
}

TEST_F(AdapterFileTest, AnotherBaseOfTheSameShapeIsRefusedForCheckpoints) {
    state_.identity["base_sha256"] = "of another file";
    CheckpointStore(folder_ / "checkpoints").save(state_);
    write_peft_adapter(folder_ / "adapter", state_);
    EXPECT_THROW(fit_adapter(read_newest_checkpoint(folder_), model_), UserError);
    EXPECT_NO_THROW(fit_adapter(read_adapter_file(folder_ / "adapter"), model_));
}

TEST_F(AdapterFileTest, WhatIsNoAdapterIsNamed) {
    EXPECT_THROW(read_adapter_file(folder_ / "nothing"), UserError);
    EXPECT_THROW(read_adapter_file(folder_), UserError);
}

TEST_F(AdapterFileTest, AFolderOfARunKnowsHowItWasTrained) {
    write_peft_adapter(folder_ / "adapter", state_);
    EXPECT_FALSE(read_adapter_file(folder_ / "adapter").run.has_value());
    std::ofstream(folder_ / "run.yaml")
        << "model: {base: m.gguf, quantization: nf4, compute_dtype: float32}\n"
           "data: {train: t.jsonl}\noutput: out\n";
    const AdapterFile file = read_adapter_file(folder_ / "adapter");
    ASSERT_TRUE(file.run.has_value());
    EXPECT_EQ(file.run->model.compute_dtype, "float32");
}

}  // namespace
}  // namespace qshard
