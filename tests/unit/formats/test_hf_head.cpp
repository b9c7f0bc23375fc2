#include <gtest/gtest.h>

#include "hf_folder.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;

namespace {

const std::string kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

/// kConfig with tie_word_embeddings as it is given ("true", "false", or "" for no such key).
std::string config_tied(const std::string& tied) {
    std::string config = kConfig;
    const std::string key = R"("tie_word_embeddings":false,)";
    config.replace(config.find(key), key.size(),
                   tied.empty() ? "" : "\"tie_word_embeddings\":" + tied + ",");
    return config;
}

/// A folder with such a config, and the head from value `first` on; negative: no head.
std::unique_ptr<WeightReader> open_with(const TempFolder& folder, const std::string& tied,
                                        int first, const std::string& metadata = "") {
    folder.write("config.json", config_tied(tied));
    Shapes shapes = llama_shapes();
    if (first < 0) shapes.erase(kHead);
    folder.write("model.safetensors", safetensors_of(shapes, "BF16", {{kHead, first}}, metadata));
    return open_model(folder.path());
}

}  // namespace

TEST(HeadOfFiles, AStoredHeadOfOtherValuesIsTheModelsOwnWhateverTheConfigSays) {
    const TempFolder folder;
    for (const char* tied : {"true", "false", ""}) {
        const auto model = open_with(folder, tied, 100);
        ASSERT_FALSE(model->config().tied_head) << tied;
        EXPECT_EQ(value_at(*model, head_weights(model->config())[0], 7), 107.0f) << tied;
        const auto notes = model->notes();
        ASSERT_EQ(notes.size(), std::string(tied) == "true" ? 1u : 0u) << tied;
        if (notes.empty()) continue;
        EXPECT_NE(notes[0].find(kHead), std::string::npos) << notes[0];
        EXPECT_NE(notes[0].find("tie_word_embeddings"), std::string::npos) << notes[0];
    }
}

TEST(HeadOfFiles, EqualValuesAreTiedWhereTheConfigSaysSo) {
    const TempFolder folder;
    const auto tied = open_with(folder, "true", 0);
    EXPECT_TRUE(tied->config().tied_head);
    EXPECT_TRUE(tied->notes().empty());
    EXPECT_FALSE(open_with(folder, "false", 0)->config().tied_head);
}

TEST(HeadOfFiles, TheHeadMayBeInAnotherShardAndOfAnotherDtype) {
    const TempFolder folder;
    Shapes first = llama_shapes(), second = {{kHead, first[kHead]}};
    first.erase(kHead);
    std::string map;
    for (const auto& [name, shape] : first) map += fmt::format("\"{}\":\"a.safetensors\",", name);
    folder.write("config.json", config_tied("true"));
    folder.write("a.safetensors", safetensors_of(first));
    folder.write("model.safetensors.index.json",
                 "{\"weight_map\":{" + map + "\"" + kHead + "\":\"b.safetensors\"}}");
    folder.write("b.safetensors", safetensors_of(second, "BF16", {{kHead, 1}}));
    EXPECT_FALSE(open_model(folder.path())->config().tied_head);
    folder.write("b.safetensors", safetensors_of(second));
    EXPECT_TRUE(open_model(folder.path())->config().tied_head);
    std::string floats;
    for (int i = 0; i < 48; ++i) floats += bytes_of_value(static_cast<float>(i));
    const std::string header =
        R"({"lm_head.weight":{"dtype":"F32","shape":[6,8],"data_offsets":[0,192]}})";
    folder.write("b.safetensors", bytes_of_value<std::uint64_t>(header.size()) + header + floats);
    EXPECT_TRUE(open_model(folder.path())->config().tied_head) << "the same values as F32";
}

TEST(HeadOfFiles, AMissingHeadIsTheEmbeddingOnlyWhereSomethingSaysSo) {
    const TempFolder folder;
    EXPECT_TRUE(open_with(folder, "true", -1)->config().tied_head);
    for (const char* tied : {"false", ""}) {
        expect_refused([&] { open_with(folder, tied, -1); }, "\"lm_head.weight\" is missing", tied);
        expect_refused([&] { open_with(folder, tied, -1); }, "tie_word_embeddings", tied);
    }
    // safetensors' save_model() leaves one of two shared tensors out, and says which.
    const auto model = open_with(
        folder, "false", -1, R"("__metadata__":{"lm_head.weight":"model.embed_tokens.weight"})");
    EXPECT_TRUE(model->config().tied_head);
}

TEST(HeadOfFiles, TheOneTensorMayHaveTheHeadsName) {
    const TempFolder folder;
    Shapes shapes = llama_shapes();
    shapes.erase(kEmbedding);
    folder.write("config.json", config_tied("true"));
    folder.write("model.safetensors", safetensors_of(shapes, "BF16", {{kHead, 3}}));
    const auto model = open_model(folder.path());
    EXPECT_TRUE(model->config().tied_head);
    EXPECT_EQ(value_at(*model, embedding_weights(model->config())[0], 5), 8.0f);
    folder.write("config.json", config_tied("false"));
    expect_refused([&] { open_model(folder.path()); }, "\"model.embed_tokens.weight\" is missing",
                   "an untied model without embedding");
}

TEST(HeadOfFiles, TensorsThatNothingReadsAreNamedUnlessTheyAreKnown) {
    const TempFolder folder;
    folder.write("config.json", kConfig);
    Shapes shapes = llama_shapes();
    shapes["vision_tower.a.weight"] = shapes["score.weight"] = {2, 8};
    folder.write("model.safetensors", safetensors_of(shapes));
    EXPECT_TRUE(open_model(folder.path())->notes().empty());
    shapes["mtp.proj.weight"] = {2, 8};
    folder.write("model.safetensors", safetensors_of(shapes));
    const auto notes = open_model(folder.path())->notes();
    ASSERT_EQ(notes.size(), 1u);
    EXPECT_NE(notes[0].find("mtp.proj.weight"), std::string::npos) << notes[0];
}

TEST(HeadOfFiles, ShapesAndMissingTensorsAreNamedWithTheirFile) {
    const TempFolder folder;
    folder.write("config.json", kConfig);
    Shapes shapes = llama_shapes();
    shapes[kEmbedding] = shapes[kHead] = {7, 8};
    const auto file = folder.write("model.safetensors", safetensors_of(shapes));
    expect_refused([&] { open_model(folder.path()); }, file.string() + ": the tensor", "the file");
    expect_refused([&] { open_model(folder.path()); }, "has shape [7, 8], expected [6, 8]", "rows");
    expect_refused([&] { open_model(folder.path()); }, "vocab_size 6", "the key that says it");
    shapes = llama_shapes();
    shapes.erase("model.layers.0.self_attn.q_proj.weight");
    shapes["model.layers.0.self_attn.q_proj.base_layer.weight"] = {8, 8};
    folder.write("model.safetensors", safetensors_of(shapes));
    expect_refused([&] { open_model(folder.path()); }, "merge_and_unload", "LoRA inside");
}

TEST(HeadOfFiles, IdsBeyondTheEmbeddingAreRefused) {
    const TempFolder folder;
    folder.write("config.json", kConfig);
    folder.write("model.safetensors", safetensors_of(llama_shapes()));
    for (const char* text : {R"({"eos_token_id":[1,6]})", R"({"eos_token_id":6})",
                             R"({"bos_token_id":9})", R"({"pad_token_id":6})"}) {
        folder.write("generation_config.json", text);
        expect_refused([&] { open_model(folder.path()); }, "the embedding has 6 rows", text);
    }
    folder.write("generation_config.json",
                 R"({"eos_token_id":null,"bos_token_id":-1,"pad_token_id":0})");
    EXPECT_EQ(open_model(folder.path())->config().eos_ids, std::vector<std::int32_t>{1});
}
