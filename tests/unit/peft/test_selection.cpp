#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "io/peft/peft_config.h"
#include "spec/adapter.h"
#include "spec/json.h"

/// Which modules are adapted, with which rank and scale: what PEFT did with the same LoraConfigs.
namespace qshard {
namespace {

namespace json = boost::json;

json::value golden() {
    std::ifstream file(std::filesystem::path(QSHARD_TEST_DATA) / "golden/peft/selection.json");
    std::ostringstream text;
    text << file.rdbuf();
    return parse_strict_json(text.str(), "selection.json");
}

ModelConfig llama(std::int64_t layers) {
    ModelConfig config;
    config.family = config.model_type = "llama";
    config.layers = layers;
    config.width = 16;
    config.heads = 2;
    config.kv_heads = 1;
    config.head_width = 8;
    config.ffn_width = 24;
    config.vocabulary = 32;
    config.layer.resize(static_cast<std::size_t>(layers));
    return config;
}

AdapterOptions options_of(const PeftConfig& config) {
    AdapterOptions options;
    options.r = config.r;
    options.alpha = config.alpha;
    options.use_rslora = config.use_rslora;
    options.target_modules = config.target_modules;
    options.target_pattern = config.target_pattern;
    if (options.target_pattern == "all-linear") {
        std::swap(options.target_pattern, options.target_modules.emplace_back());
    }
    options.exclude_modules = config.exclude_modules;
    options.exclude_pattern = config.exclude_pattern;
    options.layers = config.layers_to_transform;
    options.rank_pattern = config.rank_pattern;
    options.alpha_pattern = config.alpha_pattern;
    return options;
}

TEST(Selection, IsThatOfPeft) {
    const json::value cases = golden();
    ASSERT_GE(cases.as_array().size(), 20u);
    for (const json::value& one : cases.as_array()) {
        SCOPED_TRACE(std::string(one.at("case").as_string()));
        const PeftConfig config = parse_peft_config(json::serialize(one.at("config")), "config");
        const AdapterLayout layout = make_adapter_layout(llama(12), options_of(config));
        const json::object& want = one.at("targets").as_object();
        EXPECT_EQ(layout.targets.size(), want.size());
        for (const AdapterTarget& target : layout.targets) {
            const json::value* expected = want.if_contains(target.module);
            ASSERT_NE(expected, nullptr) << target.module;
            EXPECT_EQ(target.r, expected->at(0).to_number<std::int64_t>()) << target.module;
            EXPECT_EQ(target.scale, static_cast<float>(expected->at(1).to_number<double>()))
                << target.module;
        }
    }
}

std::string refusal(const AdapterOptions& options) {
    try {
        make_adapter_layout(llama(2), options);
    } catch (const UserError& error) {
        EXPECT_EQ(error.code(), ExitCode::kUsage);
        return error.what();
    }
    return "accepted";
}

TEST(Selection, WhatMatchesNothingIsNamed) {
    AdapterOptions options;
    options.target_modules = {"q_proj", "qkv_proj"};
    EXPECT_NE(refusal(options).find("names \"qkv_proj\""), std::string::npos) << refusal(options);
    options.target_modules.clear();
    options.target_pattern = "q_proj";  // no whole path
    EXPECT_NE(refusal(options).find("matches no whole path"), std::string::npos)
        << refusal(options);
    options.target_pattern = ".*(q_proj";
    EXPECT_NE(refusal(options).find("no regular expression: missing closing parenthesis"),
              std::string::npos)
        << refusal(options);
    options.target_pattern = ".*q_proj";
    options.exclude_pattern = ".*";
    EXPECT_NE(refusal(options).find("no module is left"), std::string::npos) << refusal(options);
    options.exclude_pattern = "(.+)+q";
    EXPECT_NE(refusal(options).find("takes too long"), std::string::npos) << refusal(options);
}

TEST(Initialisation, FollowsPeftsThreeKinds) {
    AdapterOptions options;
    options.r = 16;
    options.target_modules = {"q_proj", "down_proj"};
    std::map<AdapterInit, std::vector<float>> values;
    AdapterLayout layout;
    for (AdapterInit init : {AdapterInit::kDefault, AdapterInit::kGaussian, AdapterInit::kRandom}) {
        options.init = init;
        layout = make_adapter_layout(llama(12), options);
        values[init].resize(static_cast<std::size_t>(layout.count));
        initialize_adapter(layout, 1, values[init]);
    }
    double squares = 0, largest_b = 0;
    std::int64_t count = 0;
    for (const AdapterTarget& t : layout.targets) {
        const float bound = 1.0f / std::sqrt(static_cast<float>(t.in));
        for (std::int64_t i = t.a; i < t.b; ++i) {
            const auto at = static_cast<std::size_t>(i);
            EXPECT_LE(std::abs(values[AdapterInit::kDefault][at]), bound);
            EXPECT_EQ(values[AdapterInit::kDefault][at], values[AdapterInit::kRandom][at]);
            squares += std::pow(static_cast<double>(values[AdapterInit::kGaussian][at]), 2);
            ++count;
        }
        for (std::int64_t i = t.b; i < t.b + t.out * t.r; ++i) {
            const auto at = static_cast<std::size_t>(i);
            EXPECT_EQ(values[AdapterInit::kDefault][at], 0.0f);
            EXPECT_EQ(values[AdapterInit::kGaussian][at], 0.0f);
            EXPECT_LE(std::abs(values[AdapterInit::kRandom][at]), 0.25f);  // 1 / sqrt(16)
            largest_b = std::max(largest_b, static_cast<double>(values[AdapterInit::kRandom][at]));
        }
    }
    EXPECT_GT(largest_b, 0.24);
    // PEFT's gaussian has deviation 1 / r.
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(count)), 1.0 / 16, 0.002);
}

}  // namespace
}  // namespace qshard
