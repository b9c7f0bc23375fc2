#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <functional>
#include <sstream>

#include "../checkpoint/sample_state.h"
#include "base/dtype.h"
#include "base/error.h"
#include "io/checkpoint/atomic_file.h"
#include "io/formats/safetensors_writer.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/expert_tensors.h"
#include "io/peft/former_experts.h"
#include "io/peft/peft_config.h"
#include "io/peft/tensor_keys.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

const fs::path kGolden = fs::path(QSHARD_TEST_DATA) / "golden" / "peft";

std::string slurp(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

CheckpointState state_of(const PeftAdapter& adapter) {
    CheckpointState state = test::sample_state(7);
    state.tensors = adapter.tensors;
    state.adapter = adapter.values;
    state.adapter_config_json = adapter.config_json;
    state.optimizer.clear();
    return state;
}

std::string message_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const UserError& error) {
        return error.what();
    }
    return "";
}

TEST(PeftFolder, ReadsWhatPeftWrote) {
    const PeftAdapter adapter = read_peft_adapter(kGolden / "f32");
    EXPECT_EQ(adapter.config.r, 4);
    EXPECT_EQ(adapter.config.alpha, 8);
    EXPECT_EQ(adapter.config.dropout, 0.05);
    EXPECT_EQ(adapter.config.base_model, "tiny/llama");
    EXPECT_EQ(adapter.config.target_modules.size(), 3u);
    EXPECT_EQ(adapter.tensors.size(), 12u);
    EXPECT_EQ(adapter.modules().front(), "model.layers.0.mlp.down_proj");
    EXPECT_EQ(adapter.tensors.front().name,
              "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
    EXPECT_EQ(adapter.tensors.front().shape, (std::vector<std::int64_t>{4, 96}));
    EXPECT_EQ(problem_of(state_of(adapter)), "");
}

TEST(PeftFolder, OurFileIsByteEqualToTheReferenceWriters) {
    const TempFolder folder;
    CheckpointState state = state_of(read_peft_adapter(kGolden / "f32"));
    write_peft_adapter(folder.path() / "adapter", state);
    for (const char* name : {"adapter_model.safetensors", "adapter_config.json"}) {
        EXPECT_EQ(slurp(folder.path() / "adapter" / name), slurp(kGolden / "f32" / name)) << name;
    }
    const std::string card = slurp(folder.path() / "adapter" / "README.md");
    EXPECT_TRUE(card.starts_with("---\nbase_model: \"tiny/llama\"\nlibrary_name: peft\n")) << card;
}

TEST(PeftFolder, Bfloat16IsWidenedExactly) {
    const PeftAdapter wide = read_peft_adapter(kGolden / "f32");
    const PeftAdapter half = read_peft_adapter(kGolden / "bf16");
    ASSERT_EQ(half.values.size(), wide.values.size());
    for (std::size_t i = 0; i < wide.values.size(); ++i) {
        ASSERT_EQ(half.values[i], to_float(to_bf16(wide.values[i]))) << i;
    }
}

TEST(PeftConfig, OursReadsBackAndIsSorted) {
    PeftConfig config;
    config.r = 16;
    config.alpha = 32;
    config.dropout = 0.05;
    config.use_rslora = config.use_dora = true;
    config.target_modules = {"q_proj", "v_proj"};
    config.layers_to_transform = {0, 3};
    config.modules_to_save = {"lm_head"};
    config.bias = "lora_only";
    config.base_model = "a/b";
    const std::string text = peft_config_text(config);
    EXPECT_NE(text.find("\n  \"lora_alpha\": 32,\n  \"lora_dropout\": 0.05,\n"), std::string::npos)
        << text;
    const PeftConfig again = parse_peft_config(text, "test");
    EXPECT_EQ(peft_config_text(again), text);
    EXPECT_EQ(again.layers_to_transform, config.layers_to_transform);
    EXPECT_TRUE(again.use_rslora && again.use_dora);
    EXPECT_EQ(again.modules_to_save, config.modules_to_save);
    EXPECT_EQ(again.bias, "lora_only");
}

TEST(PeftConfig, ParsesPatternsInFileOrder) {
    const PeftConfig config = parse_peft_config(
        R"({"peft_type": "LORA", "target_modules": ".*\\.q_proj", "rank_pattern": {"z": 2, "a": 3},
            "alpha_pattern": {"k": 1.5}, "layers_to_transform": 5, "layers_pattern": "h"})",
        "test");
    EXPECT_EQ(config.target_pattern, ".*\\.q_proj");
    EXPECT_EQ(config.rank_pattern[0].first, "z");
    EXPECT_EQ(config.alpha_pattern[0].second, 1.5);
    EXPECT_EQ(config.layers_to_transform, std::vector<std::int64_t>{5});
    EXPECT_EQ(config.r, 8);
}

TEST(PeftConfig, WhatMatteredAtTheStartOrIsOffIsNoObstacle) {
    const PeftConfig config = parse_peft_config(
        R"({"r": 4, "lora_alpha": null, "init_lora_weights": "eva", "eva_config": {"rho": 2.0},
            "corda_config": null, "lora_bias": false, "ensure_weight_tying": false, "bias": null,
            "trainable_token_indices": null, "target_modules": ["q_proj"], "peft_type": null})",
        "test");
    EXPECT_EQ(config.init_lora_weights, "eva");
    EXPECT_EQ(config.alpha, 8);
}

TEST(TensorKeys, NamesOfWholeStateDictsAreMadePeftsOwn) {
    const std::string q = "base_model.model.model.layers.0.self_attn.q_proj";
    struct Case {
        std::string key, name, adapter;
    };
    const Case cases[] = {
        {q + ".lora_A.weight", q + ".lora_A.weight", ""},
        {q + ".lora_A.default.weight", q + ".lora_A.weight", "default"},
        {q + ".lora_B.my-task.weight", q + ".lora_B.weight", "my-task"},
        {q + ".lora_magnitude_vector", q + ".lora_magnitude_vector", ""},
        {q + ".lora_magnitude_vector.weight", q + ".lora_magnitude_vector", ""},
        {q + ".lora_magnitude_vector.default.weight", q + ".lora_magnitude_vector", "default"},
        {q + ".lora_magnitude_vector.default", q + ".lora_magnitude_vector", "default"},
        {"model.layers.0.self_attn.q_proj.lora_A.weight", q + ".lora_A.weight", ""},
        {"_orig_mod." + q + ".lora_A.weight", q + ".lora_A.weight", ""},
        {"module.base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_A.x."
         "weight",
         q + ".lora_A.weight", "x"},
        {"base_model.model.lm_head.modules_to_save.default.weight",
         "base_model.model.lm_head.weight", "default"},
        {"base_model.model.lm_head.modules_to_save.weight", "base_model.model.lm_head.weight", ""},
    };
    for (const Case& c : cases) {
        const TensorKey made = tensor_key(c.key);
        EXPECT_EQ(made.name, c.name) << c.key;
        EXPECT_EQ(made.adapter, c.adapter) << c.key;
        EXPECT_FALSE(made.copy_of_base);
    }
    EXPECT_TRUE(tensor_key("base_model.model.lm_head.original_module.weight").copy_of_base);
    refuse_several_adapters({"default"}, "f");
    EXPECT_NE(message_of([] {
                  refuse_several_adapters({"a", "b"}, "f");
              }).find("a, b"),
              std::string::npos);
}

TEST(PeftConfig, EveryKeyOfModuleSelectionIsWrittenAsItWasRead) {
    PeftConfig config;
    config.target_pattern = ".*\\.q_proj";
    config.exclude_pattern = ".*\\.1\\..*";
    config.init_lora_weights = "gaussian";
    config.rank_pattern = {{"a", 2}};
    config.alpha_pattern = {{"b", 0.5}};
    const PeftConfig again = parse_peft_config(peft_config_text(config), "test");
    EXPECT_EQ(again.target_pattern, config.target_pattern);
    EXPECT_EQ(again.exclude_pattern, config.exclude_pattern);
    EXPECT_EQ(again.init_lora_weights, "gaussian");
    EXPECT_EQ(again.rank_pattern, config.rank_pattern);
    EXPECT_EQ(again.alpha_pattern, config.alpha_pattern);
    config.exclude_pattern.clear();
    config.exclude_modules = {"o_proj"};
    config.init_lora_weights = "false";
    const PeftConfig third = parse_peft_config(peft_config_text(config), "test");
    EXPECT_EQ(third.exclude_modules, config.exclude_modules);
    EXPECT_EQ(third.init_lora_weights, "false");
}

TEST(PeftFolder, RanksAndScalesOfPatternsAreThoseOfPeft) {
    const PeftAdapter adapter = read_peft_adapter(kGolden / "mixed");
    const boost::json::value want = parse_strict_json(slurp(kGolden / "mixed/targets.json"), "");
    const ModuleScales scales(adapter_options(adapter.config, adapter.tensors));
    ASSERT_EQ(adapter.modules().size(), want.as_object().size());
    for (const std::string& module : adapter.modules()) {
        const boost::json::array& expected = want.at(module).as_array();
        EXPECT_EQ(scales.of(module).r, expected[0].to_number<std::int64_t>()) << module;
        EXPECT_NEAR(scales.of(module).scale, expected[1].to_number<double>(), 1e-12) << module;
    }
}

TEST(PeftConfig, UnsupportedFeaturesAreRefusedByName) {
    const std::pair<const char*, const char*> cases[] = {
        {R"({"peft_type": "IA3"})", "IA3"},
        {R"({"use_dora": 1})", "use_dora"},
        {R"({"bias": "some"})", "bias"},
        {R"({"lora_bias": true})", "lora_bias"},
        {R"({"modules_to_save": [3]})", "modules_to_save"},
        {R"({"ensure_weight_tying": true})", "ensure_weight_tying"},
        {R"({"init_lora_weights": "pissa"})", "pissa"},
        {R"({"target_parameters": [3]})", "target_parameters"},
        {R"({"loftq_config": {"loftq_bits": 4}})", "loftq_config"},
        {R"({"fan_in_fan_out": "yes"})", "fan_in_fan_out"},
        {R"({"some_new_feature": 3})", "some_new_feature"},
        {R"({"r": 0})", "\"r\""},
        {R"({"r": 4, "r": 8})", "r"},
        {"[1]", "object"},
        {R"({"init_lora_weights": "pissa_niter_4"})", "pissa_niter_4"},
    };
    for (const auto& [text, name] : cases) {
        const std::string message = message_of([&] { parse_peft_config(text, "cfg"); });
        EXPECT_NE(message.find(name), std::string::npos) << text << " -> " << message;
        EXPECT_EQ(message.find("cfg"), 0u) << message;
    }
}

TEST(PeftFolder, ExpertsOfPeftComeBackByteEqual) {
    const fs::path tiny = fs::path(QSHARD_TEST_DATA) / "golden" / "tiny";
    for (const char* family : {"mixtral", "qwen3_moe"}) {
        const fs::path golden = tiny / family / "experts";
        const PeftAdapter adapter = read_peft_adapter(golden);
        const auto shape_of = [&](const std::string& name) {
            for (const NamedTensor& tensor : adapter.tensors) {
                if (tensor.name == "base_model.model.model.layers.0.mlp." + name)
                    return tensor.shape;
            }
            return std::vector<std::int64_t>();
        };
        const bool mixtral = std::string_view(family) == "mixtral";
        const std::int64_t experts = mixtral ? 4 : 5, f = mixtral ? 36 : 28;
        EXPECT_EQ(shape_of("experts.gate_up_proj.lora_A.weight"),
                  (std::vector<std::int64_t>{experts, 6, 48}));
        EXPECT_EQ(shape_of("experts.gate_up_proj.lora_B.weight"),
                  (std::vector<std::int64_t>{experts, 2 * f, 6}));
        EXPECT_EQ(shape_of("experts.down_proj.lora_B.weight"),
                  (std::vector<std::int64_t>{experts, 48, 3}));
        EXPECT_EQ(problem_of(state_of(adapter)), "");
        const AdapterOptions options = adapter_options(adapter.config, adapter.tensors);
        EXPECT_EQ(options.target_parameters.front(), "model.layers.0.mlp.experts.down_proj");
        EXPECT_EQ(options.target_parameters.back(),
                  mixtral ? "model.layers.1.mlp.gate.weight" : "model.layers.2.mlp.gate.weight");
        const TempFolder folder;
        write_peft_adapter(folder.path() / "adapter", state_of(adapter));
        EXPECT_EQ(slurp(folder.path() / "adapter" / "adapter_model.safetensors"),
                  slurp(golden / "adapter_model.safetensors"));
        const PeftConfig again =
            parse_peft_config(peft_config_text(adapter.config), "written and read again");
        EXPECT_EQ(again.target_parameters, adapter.config.target_parameters);
        EXPECT_EQ(again.rank_pattern, adapter.config.rank_pattern);
    }
}

/// The only parameter of a module has its own path in PEFT, whichever it is.
TEST(PeftFolder, OneParameterOfExpertsIsNotNested) {
    std::vector<float> values(24);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    const std::string module = "base_model.model.model.layers.0.mlp.experts";
    for (const char* parameter : {"gate_up_proj", "down_proj"}) {
        const std::vector<NamedTensor> tensors = {
            {module + "." + parameter + ".lora_A.weight", {2, 1, 3}, 0},
            {module + "." + parameter + ".lora_B.weight", {2, 9, 1}, 6}};
        LooseTensors made = peft_tensors(tensors, values);
        const LooseTensor& b = made.at(module + ".lora_B.weight");
        EXPECT_EQ(b.shape, (std::vector<std::int64_t>{9, 2}));
        EXPECT_EQ(b.values[1], 6.0f + 9);  // row 0 of expert 1
        PeftConfig config;
        config.r = 1;
        config.target_parameters = {std::string("experts.") + parameter};
        LooseTensors copy = made;
        const LooseTensors back = checkpoint_tensors(copy, config, "f");
        EXPECT_EQ(back.at(tensors[1].name).values,
                  std::vector<float>(values.begin() + 6, values.end()));
        config.r = 4;
        EXPECT_NE(message_of([&] { checkpoint_tensors(made, config, "f"); }).find("of rank 4"),
                  std::string::npos);
    }
}

/// Two experts of one layer, with a value for each tensor.
LooseTensors former_experts() {
    LooseTensors tensors;
    const std::string layer = "base_model.model.model.layers.0.block_sparse_moe.";
    float value = 1;
    for (const char* linear : {"experts.0.w1", "experts.0.w3", "experts.1.w1", "experts.1.w3"}) {
        tensors[layer + linear + ".lora_A.weight"] = {{1, 2}, {value, value}};
        tensors[layer + linear + ".lora_B.weight"] = {{3, 1}, {10 * value, 10 * value, 10 * value}};
        ++value;
    }
    tensors[layer + "gate.lora_A.weight"] = {{1, 2}, {8, 8}};
    tensors[layer + "gate.lora_B.weight"] = {{2, 1}, {9, 9}};
    return tensors;
}

PeftConfig former_config() {
    PeftConfig config;
    config.r = 1;
    config.alpha = 4;
    config.dropout = 0.1;
    config.target_modules = {"w1", "w3", "gate"};
    return config;
}

TEST(FormerExperts, BecomeOneParameter) {
    LooseTensors tensors = former_experts();
    PeftConfig config = former_config();
    ASSERT_TRUE(fuse_former_experts(tensors, config, "f"));
    const std::string mlp = "base_model.model.model.layers.0.mlp.";
    const LooseTensor& a = tensors.at(mlp + "experts.gate_up_proj.lora_A.weight");
    const LooseTensor& b = tensors.at(mlp + "experts.gate_up_proj.lora_B.weight");
    EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 2, 2}));
    EXPECT_EQ(a.values, (std::vector<float>{1, 1, 2, 2, 3, 3, 4, 4}));
    EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2, 6, 2}));
    EXPECT_EQ(b.values, (std::vector<float>{10, 0, 10, 0, 10, 0, 0, 20, 0, 20, 0, 20,
                                            30, 0, 30, 0, 30, 0, 0, 40, 0, 40, 0, 40}));
    EXPECT_TRUE(tensors.contains(mlp + "gate.lora_A.weight"));
    EXPECT_EQ(tensors.size(), 4u);
    EXPECT_EQ(config.target_parameters,
              (std::vector<std::string>{"model.layers.0.mlp.experts.gate_up_proj",
                                        "model.layers.0.mlp.gate.weight"}));
    EXPECT_TRUE(config.target_modules.empty());
    const ModuleScale scale =
        ModuleScales(adapter_options(config, {})).of("model.layers.0.mlp.experts.gate_up_proj");
    EXPECT_EQ(scale.r, 2);
    EXPECT_EQ(scale.scale, 4.0);
    EXPECT_EQ(config.dropout, 0);
    EXPECT_FALSE(fuse_former_experts(tensors, config, "f"));
}

TEST(FormerExperts, GoTogetherOrNotAtAll) {
    const std::string expert = "base_model.model.model.layers.0.block_sparse_moe.experts.1.";
    const auto refused = [&](const std::function<void(LooseTensors&, PeftConfig&)>& change) {
        LooseTensors tensors = former_experts();
        PeftConfig config = former_config();
        change(tensors, config);
        return message_of([&] { fuse_former_experts(tensors, config, "f"); });
    };
    for (const char* factor : {"w3.lora_A.weight", "w1.lora_B.weight"}) {
        EXPECT_NE(refused([&](LooseTensors& tensors, PeftConfig&) {
                      tensors.erase(expert + factor);
                  }).find("all are adapted or none"),
                  std::string::npos);
        EXPECT_NE(refused([&](LooseTensors& tensors, PeftConfig&) {
                      tensors[expert + factor] = {{2, 2}, {0, 0, 0, 0}};
                  }).find("of rank 1"),
                  std::string::npos);
    }
    EXPECT_NE(refused([&](LooseTensors& tensors, PeftConfig&) {
                  tensors[expert + "w2.lora_A.weight"] = {{1, 3}, {0, 0, 0}};
              }).find("w2 or down_proj"),
              std::string::npos);
    EXPECT_NE(refused([&](LooseTensors&, PeftConfig& config) {
                  config.rank_pattern = {{"w1", 4}};
              }).find("a rank or alpha of its own"),
              std::string::npos);
    EXPECT_NE(refused([&](LooseTensors& tensors, PeftConfig&) {
                  tensors
                      ["base_model.model.model.layers.0.block_sparse_moe.experts.99999.w1."
                       "lora_A.weight"] = {{1, 2}, {0, 0}};
              }).find("99999"),
              std::string::npos);
}

/// A folder with the golden configuration and these tensors.
std::string refusal(std::vector<FloatTensorView> tensors) {
    const TempFolder folder;
    fs::copy(kGolden / "f32" / "adapter_config.json", folder.path());
    write_file_atomic(folder.path() / "adapter_model.safetensors",
                      safetensors_bytes(std::move(tensors)));
    return message_of([&] { read_peft_adapter(folder.path()); });
}

/// A folder of PEFT's whose adapter_config.json says use_dora, with these tensors.
std::string dora_refusal(std::vector<FloatTensorView> tensors) {
    const TempFolder folder;
    PeftConfig config;
    config.r = 4;
    config.use_dora = true;
    write_file_atomic(folder.path() / "adapter_config.json", peft_config_text(config));
    write_file_atomic(folder.path() / "adapter_model.safetensors",
                      safetensors_bytes(std::move(tensors)));
    return message_of([&] {
        const PeftAdapter adapter = read_peft_adapter(folder.path());
        for (const NamedTensor& tensor : adapter.tensors) {
            const bool magnitude = tensor.name == "base_model.model.m.lora_magnitude_vector";
            EXPECT_EQ(tensor.shape.size(), magnitude ? 1u : 2u) << tensor.name;
        }
        EXPECT_TRUE(adapter_options(adapter.config, adapter.tensors).use_dora);
    });
}

TEST(PeftFolder, MagnitudesAreReadUnderOldNamesAndShapesToo) {
    const std::vector<float> values(64);
    const auto view = [&](const char* name, std::vector<std::int64_t> shape) {
        std::int64_t count = 1;
        for (const std::int64_t extent : shape) count *= extent;
        return FloatTensorView{std::string("base_model.model.m.") + name, std::move(shape),
                               std::span(values).first(static_cast<std::size_t>(count))};
    };
    const auto with = [&](FloatTensorView magnitude) {
        return dora_refusal(
            {view("lora_A.weight", {4, 6}), view("lora_B.weight", {8, 4}), std::move(magnitude)});
    };
    EXPECT_EQ(with(view("lora_magnitude_vector", {8})), "");
    EXPECT_EQ(with(view("lora_magnitude_vector", {1, 8})), "");
    EXPECT_EQ(with(view("lora_magnitude_vector.weight", {8})), "");
    EXPECT_NE(with(view("lora_magnitude_vector", {7})).find("7 magnitudes for 8 rows"),
              std::string::npos);
    EXPECT_NE(with(view("lora_magnitude_vector", {2, 4})).find("not a vector"), std::string::npos);
    EXPECT_NE(dora_refusal({view("lora_A.weight", {4, 6}), view("lora_B.weight", {8, 4})})
                  .find("lacks its lora_magnitude_vector"),
              std::string::npos);
}

TEST(PeftFolder, WeightsTrainedWholeAreReadAndWrittenAsPeftHasThem) {
    const fs::path tiny = kGolden / "../tiny/llama/whole";
    const PeftAdapter adapter = read_peft_adapter(tiny);
    EXPECT_EQ(adapter.config.modules_to_save,
              (std::vector<std::string>{"embed_tokens", "lm_head"}));
    EXPECT_EQ(adapter.modules().size(), 14u) << "modules with LoRA only";
    const TempFolder folder;
    write_peft_adapter(folder.path() / "adapter", state_of(adapter));
    EXPECT_EQ(slurp(folder.path() / "adapter/adapter_model.safetensors"),
              slurp(tiny / "adapter_model.safetensors"));
    PeftConfig config = adapter.config;
    config.modules_to_save = {"lm_head"};
    fs::copy(tiny / "adapter_model.safetensors", folder.path());
    write_file_atomic(folder.path() / "adapter_config.json", peft_config_text(config));
    const PeftAdapter beside = read_peft_adapter(folder.path());
    EXPECT_EQ(beside.copies.tensors.count("base_model.model.model.embed_tokens.weight"), 1u)
        << "what is not named is to be checked against the base";
}

TEST(PeftFolder, BiasesAreReadAndWrittenAsPeftHasThem) {
    for (const auto& [model, biases] :
         {std::pair{"gpt2", 13}, {"starcoder2", 17}, {"llama_bias", 6}}) {
        const fs::path tiny = kGolden / "../tiny" / model / "whole";
        const PeftAdapter adapter = read_peft_adapter(tiny);
        EXPECT_EQ(std::ranges::count_if(
                      adapter.tensors,
                      [](const NamedTensor& tensor) { return tensor.name.ends_with(".bias"); }),
                  biases);
        const TempFolder folder;
        write_peft_adapter(folder.path() / "adapter", state_of(adapter));
        EXPECT_EQ(slurp(folder.path() / "adapter/adapter_model.safetensors"),
                  slurp(tiny / "adapter_model.safetensors"));
        PeftConfig config = adapter.config;
        config.bias = "none";
        fs::copy(tiny / "adapter_model.safetensors", folder.path());
        write_file_atomic(folder.path() / "adapter_config.json", peft_config_text(config));
        EXPECT_NE(
            message_of([&] { read_peft_adapter(folder.path()); }).find(".bias\" is not supported"),
            std::string::npos);
    }
}

TEST(PeftFolder, RefusesTensorsItCannotApply) {
    const std::vector<float> values(64);
    const auto view = [&](const char* name, std::int64_t rows, std::int64_t columns) {
        return FloatTensorView{std::string("base_model.model.m.") + name,
                               {rows, columns},
                               std::span(values).first(static_cast<std::size_t>(rows * columns))};
    };
    EXPECT_EQ(refusal({view("lora_A.weight", 4, 8), view("lora_B.weight", 8, 4)}), "");
    EXPECT_NE(refusal({view("lora_A.weight", 4, 8)}).find("lacks its lora_B"), std::string::npos);
    EXPECT_NE(refusal({view("lora_A.weight", 2, 8), view("lora_B.weight", 8, 2)}).find("rank 2"),
              std::string::npos);
    EXPECT_NE(refusal({view("lora_magnitude_vector", 8, 1)}).find("lora_magnitude_vector"),
              std::string::npos);
    EXPECT_NE(refusal({}).find("no tensors of LoRA"), std::string::npos);
}

TEST(PeftFolder, PickleIsNeverRead) {
    const TempFolder folder;
    fs::copy(kGolden / "f32" / "adapter_config.json", folder.path());
    std::ofstream(folder.path() / "adapter_model.bin") << "x";
    EXPECT_NE(message_of([&] { read_peft_adapter(folder.path()); }).find("pickle"),
              std::string::npos);
}

}  // namespace
}  // namespace qshard
