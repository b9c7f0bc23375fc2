#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>

#include "base/dtype.h"
#include "files.h"
#include "hf_folder.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;

TEST(HuggingFaceModel, OneFile) {
    TempFolder folder;
    folder.write("config.json", kConfig);
    folder.write("generation_config.json", R"({"eos_token_id":[1,3]})");
    folder.write("tokenizer_config.json",
                 R"({"chat_template":[{"name":"default","template":"T"}]})");
    folder.write("model.safetensors", safetensors_of(llama_shapes()));
    const ModelSource source = open_model_source(folder.path());
    EXPECT_EQ(source.kind, "safetensors");
    EXPECT_EQ(source.chat_templates.at("default"), "T");
    EXPECT_FALSE(source.tokenizer_json.has_value());
    const WeightReader& model = *source.weights;
    EXPECT_EQ(model.config().eos_ids, (std::vector<std::int32_t>{1, 3}));
    EXPECT_FALSE(model.config().tied_head);
    for (const WeightSpec& weight : layer_weights(model.config(), 0)) {
        EXPECT_EQ(value_at(model, weight, weight.count() - 1),
                  static_cast<float>(weight.count() - 1))
            << weight.name;
        EXPECT_EQ(model.source_dtype(weight), DType::kBF16);
        EXPECT_TRUE(model.reads_bf16(weight));
    }
    EXPECT_EQ(model.sha256().size(), 64u);
    EXPECT_GT(model.file_bytes(), 1000);
}

TEST(HuggingFaceModel, ATiedHeadMayBeStoredTooAndTheTemplateInAFileOfItsOwn) {
    TempFolder folder;
    std::string config = kConfig;
    const std::string untied = R"("tie_word_embeddings":false)";
    config.replace(config.find(untied), untied.size(), R"("tie_word_embeddings":true)");
    folder.write("config.json", config);
    folder.write("tokenizer_config.json", "{}");
    folder.write("chat_template.json", R"({"chat_template":"T"})");
    folder.write("model.safetensors", safetensors_of(llama_shapes()));
    const ModelSource source = open_model_source(folder.path());
    EXPECT_TRUE(source.weights->config().tied_head);
    EXPECT_EQ(source.chat_templates.at("default"), "T");
}

TEST(HuggingFaceModel, NamedTemplatesComeFromTheListOrFromFiles) {
    using Named = std::map<std::string, std::string>;
    TempFolder folder;
    folder.write("config.json", kConfig);
    folder.write("tokenizer_config.json",
                 R"({"chat_template":[{"name":"default","template":"T"},{"name":"tool_use",)"
                 R"("template":"U"},{"name":"none","template":""}]})");
    folder.write("model.safetensors", safetensors_of(llama_shapes()));
    const auto templates = [&] { return open_model_source(folder.path()).chat_templates; };
    EXPECT_EQ(templates(), (Named{{"default", "T"}, {"tool_use", "U"}}));
    // A file of its own replaces the whole list, as in transformers.
    folder.write("chat_template.jinja", "F");
    EXPECT_EQ(templates(), (Named{{"default", "F"}}));
    std::filesystem::create_directory(folder.path() / "additional_chat_templates");
    folder.write("additional_chat_templates/tool_use.jinja", "G");
    folder.write("additional_chat_templates/notes.txt", "no template");
    EXPECT_EQ(templates(), (Named{{"default", "F"}, {"tool_use", "G"}}));
}

TEST(HuggingFaceModel, ForeignPrefixesAreUnderstood) {
    for (const char* prefix : {"model.language_model.", "language_model.model.", ""}) {
        TempFolder folder;
        folder.write("config.json", fmt::format(R"({{"model_type":"wrapper","vision_config":{{}},)"
                                                R"("tie_word_embeddings":{},"text_config":{}}})",
                                                std::string(prefix).empty(), kConfig));
        Shapes shapes;
        for (const auto& [name, shape] : llama_shapes()) {
            const bool head = name == "lm_head.weight";
            if (head && std::string(prefix).empty()) continue;
            if (head) {
                shapes[std::string(prefix) == "language_model.model." ? "language_model." + name
                                                                      : name] = shape;
            } else {
                shapes[prefix + name.substr(6)] = shape;
            }
        }
        shapes["vision_tower.weight"] = {2};
        folder.write("model.safetensors", safetensors_of(shapes));
        const auto model = open_model(folder.path());
        EXPECT_EQ(value_at(*model, layer_weights(model->config(), 0)[0], 9), 9.0f) << prefix;
        EXPECT_EQ(model->config().tied_head, std::string(prefix).empty());
    }
}

TEST(HuggingFaceModel, ShardsAreFollowedAndChecked) {
    Shapes first = llama_shapes(), second;
    second["lm_head.weight"] = first["lm_head.weight"];
    first.erase("lm_head.weight");
    const auto index = [&](const std::string& file2, const std::string& extra = "") {
        std::string map;
        for (const auto& [name, shape] : first)
            map += fmt::format("\"{}\":\"model-1.safetensors\",", name);
        return "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + map + "\"lm_head.weight\":\"" +
               file2 + "\"" + extra + "}}";
    };
    TempFolder folder;
    folder.write("config.json", kConfig);
    folder.write("model-1.safetensors", safetensors_of(first));
    folder.write("model-2.safetensors", safetensors_of(second));
    folder.write("model.safetensors.index.json", index("model-2.safetensors"));
    const auto model = open_model(folder.path());
    EXPECT_EQ(value_at(*model, head_weights(model->config())[0], 47), 47.0f);

    struct Broken {
        const char* what;
        const char* message;
        std::string text;
    };
    const Broken cases[] = {
        {"a path", "refused", index("../model-2.safetensors")},
        {"an absolute path", "refused", index("/etc/passwd")},
        {"the folder above", "refused", index("..")},
        {"an empty name", "refused", index("")},
        {"a missing shard", "cannot open", index("model-3.safetensors")},
        {"the wrong shard", "is not in", index("model-1.safetensors")},
        {"a tensor in no shard", "is not in",
         index("model-2.safetensors", ",\"x\":\"model-2.safetensors\"")},
        {"no map", "weight_map", "{}"},
        {"a map of numbers", "file names", R"({"weight_map":{"a":1}})"},
        {"a duplicate tensor", "twice",
         index("model-2.safetensors", ",\"lm_head.weight\":\"model-2.safetensors\"")},
    };
    for (const Broken& c : cases) {
        folder.write("model.safetensors.index.json", c.text);
        expect_refused([&] { open_model(folder.path()); }, c.message, c.what);
    }

    folder.write("model.safetensors.index.json", index("model-2.safetensors"));
    second["model.norm.weight"] = {8};
    folder.write("model-2.safetensors", safetensors_of(second));
    expect_refused([&] { open_model(folder.path()); }, "two files", "a tensor in two shards");
}

TEST(HuggingFaceModel, WhatTheConfigDoesNotAccountForIsRefused) {
    struct Broken {
        const char* what;
        const char* message;
        std::function<void(Shapes&)> spoil;
    };
    const std::string layer = "model.layers.0.";
    const Broken cases[] = {
        {"a missing weight", "missing", [&](Shapes& s) { s.erase(layer + "mlp.up_proj.weight"); }},
        {"a wrong shape", "expected [4, 8]",
         [&](Shapes& s) {
             s[layer + "self_attn.k_proj.weight"] = {8, 4};
         }},
        {"an unknown bias", "not part",
         [&](Shapes& s) { s[layer + "self_attn.q_proj.bias"] = {8}; }},
        {"a layer too many", "not part",
         [&](Shapes& s) { s["model.layers.1.input_layernorm.weight"] = {8}; }},
        {"a bias of the head", "not part", [&](Shapes& s) { s["lm_head.bias"] = {6}; }},
        {"a bias of the last norm", "not part", [&](Shapes& s) { s["model.norm.bias"] = {8}; }},
        {"a quantized weight without its parts", "no JSON text",
         [&](Shapes& s) { s[layer + "mlp.up_proj.weight.quant_state.bitsandbytes__nf4"] = {8}; }},
        {"no embedding", "\"model.embed_tokens.weight\" is missing",
         [&](Shapes& s) { s.erase("model.embed_tokens.weight"); }},
        {"neither embedding nor last norm", "no tensor",
         [&](Shapes& s) {
             s.erase("model.embed_tokens.weight");
             s.erase("model.norm.weight");
         }},
    };
    for (const Broken& c : cases) {
        TempFolder folder;
        folder.write("config.json", kConfig);
        Shapes shapes = llama_shapes();
        c.spoil(shapes);
        folder.write("model.safetensors", safetensors_of(shapes));
        expect_refused([&] { open_model(folder.path()); }, c.message, c.what);
    }
    TempFolder folder;
    folder.write("config.json", kConfig);
    folder.write("pytorch_model.bin", "x");
    expect_refused([&] { open_model(folder.path()); }, "never", "a pickle");
    folder.write("model.safetensors", safetensors_of(llama_shapes(), "I16"));
    expect_refused([&] { open_model(folder.path()); }, "dtype I16", "integers");
}

/// Edits of a real folder that keep its length: every one is refused, by what is wrong.
TEST(HuggingFaceModel, DamagedBitsandbytesFoldersAreRefused) {
    struct Broken {
        const char* kind;
        const char* message;
        const char* from;
        const char* to;
    };
    const Broken cases[] = {
        {"nf4", "blocksize", R"("blocksize": 64)", R"("blocksize": 32)"},
        {"nf4", "nested_blocksize", R"("nested_blocksize": 256)", R"("nested_blocksize": 128)"},
        {"nf4", "quant_type", R"("quant_type": "nf4")", R"("quant_type": "fp4")"},
        {"nf4", "dtype", R"("dtype": "bfloat16")", R"("dtype": "bfloat17")"},
        {"nf4", "shape", R"("shape": [16, 48])", R"("shape": [48, 16])"},
        {"nf4", "nested_dtype", R"("nested_dtype": "float32")", R"("nested_dtype": "float16")"},
        {"nf4", "unknown", R"("nested_offset":)", R"("nested_offseT":)"},
        {"nf4", "lacks its", "k_proj.weight.nested_absmax", "k_proj.weight.nested_absmaX"},
        {"nf4", "expected 12 of U8", R"("dtype":"U8","shape":[12])",
         R"("dtype":"I8","shape":[12])"},
        {"fp4", "expected 12 of F32", R"("dtype":"F32","shape":[12])",
         R"("dtype":"I32","shape":[12])"},
        {"int8", "expected [16, 48]", R"("dtype":"I8","shape":[16,48])",
         R"("dtype":"I8","shape":[48,16])"},
        {"int8", "lacks its", "k_proj.SCB", "k_proj.SCb"},
    };
    for (const Broken& c : cases) {
        const std::filesystem::path source =
            std::filesystem::path(QSHARD_TEST_DATA) / "golden" / "bnb" / c.kind;
        TempFolder folder;
        folder.write("config.json", InputFile(source / "config.json").text(1 << 20));
        std::string content = InputFile(source / "model.safetensors").text(1 << 20);
        const std::size_t at = content.find(c.from);
        ASSERT_NE(at, std::string::npos) << c.from;
        content.replace(at, std::string(c.from).size(), c.to);
        folder.write("model.safetensors", content);
        expect_refused([&] { open_model(folder.path()); }, c.message, c.from);
    }
}

TEST(HuggingFaceModel, TheGoldenModelsOfEveryFamilyOpen) {
    for (const char* name : {"llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
                             "gemma3", "smollm3", "granite", "starcoder2", "phi3", "olmo2", "gpt2",
                             "llama_bias", "mixtral", "qwen3_moe"}) {
        const auto model =
            open_model(std::filesystem::path(QSHARD_TEST_DATA) / "golden" / "tiny" / name);
        EXPECT_EQ(model->config().width, 48) << name;
        for (const WeightSpec& weight : layer_weights(model->config(), 1)) {
            const float last = value_at(*model, weight, weight.count() - 1);
            EXPECT_TRUE(std::abs(last) < 10.0f) << name << " " << weight.name;
            const std::int64_t first = weight.count() / 3;
            std::vector<float> part(static_cast<std::size_t>(weight.count() / 2));
            std::vector<bf16> rounded(part.size());
            model->read(weight, first, part);
            model->read_bf16(weight, first, rounded);
            for (std::size_t i = 0; i < part.size(); ++i)
                ASSERT_EQ(rounded[i].bits, to_bf16(part[i]).bits) << weight.name;
        }
    }
}

TEST(HuggingFaceModel, TransposedLinearsAreReadInAnyRange) {
    const auto model =
        open_model(std::filesystem::path(QSHARD_TEST_DATA) / "golden" / "tiny" / "gpt2");
    const WeightSpec weight = layer_weights(model->config(), 1).front();
    ASSERT_TRUE(weight.transposed);
    ASSERT_EQ(weight.name, "transformer.h.1.attn.c_attn.weight");
    ASSERT_EQ(weight.rows, 144);
    std::vector<float> whole(static_cast<std::size_t>(weight.count()));
    model->read(weight, 0, whole);
    WeightSpec stored = weight;  // as it lies in the file
    stored.transposed = false;
    std::vector<float> file(whole.size());
    model->read(stored, 0, file);
    for (std::size_t row = 0; row < 144; ++row) {
        for (std::size_t col = 0; col < 48; ++col)
            ASSERT_EQ(whole[row * 48 + col], file[col * 144 + row]);
    }
    for (const auto& [first, count] :
         std::vector<std::pair<std::size_t, std::size_t>>{{0, 1}, {47, 2}, {95, 500}, {6911, 1}}) {
        std::vector<float> part(count);
        model->read(weight, static_cast<std::int64_t>(first), part);
        EXPECT_TRUE(std::equal(part.begin(), part.end(),
                               whole.begin() + static_cast<std::ptrdiff_t>(first)));
    }
}
