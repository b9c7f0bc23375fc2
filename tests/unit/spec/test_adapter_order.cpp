#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "spec/adapter.h"
#include "spec/adapter_order.h"
#include "spec/config_json.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

std::vector<ModelConfig> configs_of_all_families() {
    std::vector<ModelConfig> configs;
    for (const auto& entry : fs::directory_iterator(fs::path(QSHARD_TEST_DATA) / "golden/tiny")) {
        const fs::path file = entry.path() / "config.json";
        if (!fs::exists(file)) continue;
        std::ostringstream text;
        text << std::ifstream(file).rdbuf();
        configs.push_back(model_config_from_json(text.str(), file.string()));
        configs.push_back(configs.back());
        configs.back().wrapped = true;
    }
    return configs;
}

std::vector<std::string> names_of(const AdapterLayout& layout) {
    std::vector<std::string> names;
    for (const AdapterTensor& tensor : tensors_of(layout)) names.push_back(tensor.name);
    return names;
}

/// Whatever order the names come in, they are put into that of the layout.
void expect_order(const ModelConfig& config, const AdapterOptions& options) {
    const std::vector<std::string> wanted = names_of(make_adapter_layout(config, options));
    std::vector<std::string> names = wanted;
    std::sort(names.begin(), names.end());
    for (std::minstd_rand random(1);; std::shuffle(names.begin(), names.end(), random)) {
        std::vector<std::string> ordered;
        for (const std::size_t i : layout_order(names)) ordered.push_back(names[i]);
        ASSERT_EQ(ordered, wanted) << config.family;
        if (names == wanted || random() % 4 == 0) break;
    }
}

TEST(AdapterOrder, IsTheLayoutsForEveryFamilyAndOption) {
    const std::vector<ModelConfig> configs = configs_of_all_families();
    ASSERT_GE(configs.size(), 28u);
    for (const ModelConfig& config : configs) {
        const bool gpt2 = config.family == "gpt2";
        AdapterOptions options;
        options.target_modules = {"all-linear"};
        expect_order(config, options);
        options.bias = AdapterBias::kAll;
        options.modules_to_save = {"lm_head", gpt2 ? "wte" : "embed_tokens"};
        expect_order(config, options);
        options.bias = AdapterBias::kLoraOnly;
        if (config.experts == 0) {
            options.use_dora = true;
        } else {
            options.target_modules.clear();
            options.target_parameters = {"mlp.experts.down_proj", "mlp.gate.weight"};
        }
        expect_order(config, options);
    }
}

TEST(AdapterOrder, LayersAreCountedNotSpelled) {
    std::vector<std::string> names;
    for (const char* layer : {"10", "2", "0"})
        names.push_back(
            fmt::format("base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight", layer));
    EXPECT_EQ(layout_order(names), (std::vector<std::size_t>{2, 1, 0}));
}

TEST(AdapterOrder, UnknownModulesLieBehindTheKnownOnesByName) {
    const std::vector<std::string> names = {
        "base_model.model.model.layers.1.mixer.out_proj.lora_A.weight",
        "base_model.model.model.layers.1.mixer.in_proj.lora_B.weight",
        "base_model.model.model.layers.1.mixer.in_proj.lora_A.weight",
        "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight",
        "base_model.model.classifier.weight"};
    EXPECT_EQ(layout_order(names), (std::vector<std::size_t>{3, 2, 1, 0, 4}));
}

}  // namespace
}  // namespace qshard
