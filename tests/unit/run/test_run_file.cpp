#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "io/run/run_changes.h"
#include "io/run/run_file.h"
#include "tests/temp_folder.h"

namespace qshard {
namespace {

class RunFileTest : public testing::Test {
  protected:
    RunFile load(const std::string& text, const std::vector<std::string>& overrides = {}) {
        return load_run_file(folder_.write("run.yaml", text), overrides);
    }
    std::string error(const std::string& text, const std::vector<std::string>& overrides = {}) {
        try {
            load(text, overrides);
        } catch (const UserError& e) {
            EXPECT_EQ(e.code(), ExitCode::kUsage);
            return e.what();
        }
        return "accepted";
    }

    test::TempFolder folder_;
    const std::string good_ = "model: {base: m.gguf}\ndata: {train: a.jsonl}\noutput: out\n";
};

TEST_F(RunFileTest, DefaultsAreTheDocumentedOnesAndPathsStartAtTheFile) {
    const RunFile run = load(good_);
    EXPECT_EQ(run.model.base, (folder_.path() / "m.gguf").string());
    EXPECT_EQ(run.data.train.at(0).path, (folder_.path() / "a.jsonl").string());
    EXPECT_EQ(run.output, (folder_.path() / "out").string());
    EXPECT_EQ(run.model.quantization, "auto");
    EXPECT_EQ(run.adapter.r, 16);
    EXPECT_EQ(run.train.learning_rate, 2e-4);
    EXPECT_EQ(run.train.seed, 42u);
    EXPECT_FALSE(run.train.max_steps);
    EXPECT_EQ(run.checkpoint.keep, 3);
}

TEST_F(RunFileTest, WhatIsWrittenRunsAgainAsItIs) {
    const RunFile run = load(
        good_ +
            "adapter: {layers: [0-3, 7], target_modules: [q_proj, v_proj], use_rslora: true}\n"
            "train: {betas: [0.8, 0.95], max_steps: 7, learning_rate: 1.5e-3, warmup_steps: 2}\n"
            "placement: {memory_limit: 2GiB, threads: 3}\ncheckpoint: {time_limit: \"1:00:00\"}\n"
            "eval: {early_stop: 2}\n",
        {"data.validation=0.25", "data.train=[{path: b.jsonl, weight: 2.5}, c.jsonl]"});
    const std::string text = run.to_yaml();
    EXPECT_EQ(load(text).to_yaml(), text);
    EXPECT_EQ(load(text).identity_yaml(), run.identity_yaml());
    EXPECT_EQ(run.placement.memory_limit, std::int64_t{2} << 30);
    EXPECT_EQ(run.checkpoint.time_limit, 3600);
    EXPECT_EQ(run.data.train.at(0).weight, 2.5);
    EXPECT_EQ(run.data.validation_fraction, 0.25);
    EXPECT_EQ(parse_layers(run.adapter.layers), (std::vector<std::int64_t>{0, 1, 2, 3, 7}));
    EXPECT_NE(text.find("learning_rate: 0.0015"), std::string::npos) << text;
}

TEST_F(RunFileTest, ModulesAreNamesOrAnExpressionAsInPeft) {
    const RunFile::Adapter none = load(good_).adapter;
    EXPECT_EQ(none.target_modules, std::vector<std::string>{"all-linear"});
    EXPECT_TRUE(none.exclude_modules.empty() && none.exclude_pattern.empty());
    const RunFile run = load(
        good_ +
        "adapter:\n  target_modules: '.*\\.(q|v)_proj'\n  exclude_modules: [o_proj, mlp.up_proj]\n"
        "  rank_pattern: {v_proj: 3, 'layers\\.1\\..*': 5}\n  alpha_pattern: {q_proj: 0.5}\n"
        "  init_lora_weights: gaussian\n  dropout: 0.05\n  use_dora: false\n  modules_to_save: "
        "null\n");
    EXPECT_TRUE(run.adapter.target_modules.empty());
    EXPECT_EQ(run.adapter.target_pattern, ".*\\.(q|v)_proj");
    EXPECT_EQ(run.adapter.exclude_modules, (std::vector<std::string>{"o_proj", "mlp.up_proj"}));
    EXPECT_EQ(run.adapter.rank_pattern[0].first, "layers\\.1\\..*") << "sorted, as PEFT saves them";
    EXPECT_EQ(run.adapter.rank_pattern[1].second, 3);
    EXPECT_EQ(run.adapter.alpha_pattern[0].second, 0.5);
    EXPECT_EQ(run.adapter.dropout, 0.05);
    EXPECT_EQ(load(run.to_yaml()).to_yaml(), run.to_yaml());
    EXPECT_EQ(load(run.to_yaml()).adapter.target_pattern, run.adapter.target_pattern);
    EXPECT_TRUE(run.adapter.modules_to_save.empty());
    const RunFile saved =
        load(good_ + "adapter: {modules_to_save: [embed_tokens, lm_head], bias: all}\n");
    EXPECT_EQ(load(saved.to_yaml()).adapter.bias, "all");
    EXPECT_EQ(load(saved.to_yaml()).adapter.modules_to_save,
              (std::vector<std::string>{"embed_tokens", "lm_head"}));
    EXPECT_EQ(load(good_, {"adapter.target_modules=self_attn.q_proj"}).adapter.target_modules,
              std::vector<std::string>{"self_attn.q_proj"});
}

TEST_F(RunFileTest, DoraIsASwitchThatOlderFilesHaveAsNull) {
    EXPECT_FALSE(load(good_).adapter.use_dora);
    EXPECT_FALSE(load(good_ + "adapter: {use_dora: null}\n").adapter.use_dora);
    const RunFile run = load(good_ + "adapter: {use_dora: true}\n");
    EXPECT_TRUE(run.adapter.use_dora);
    EXPECT_EQ(load(good_ + "adapter: {use_dora: true, dropout: 0.1}\n").adapter.dropout, 0.1);
    EXPECT_TRUE(load(run.to_yaml()).adapter.use_dora);
    EXPECT_NE(run.identity_yaml(), load(good_).identity_yaml());
}

TEST_F(RunFileTest, PlacementDoesNotChangeTheIdentityAndSettingsDo) {
    const std::string identity = load(good_).identity_yaml();
    EXPECT_EQ(load(good_, {"placement.mode=gathered", "checkpoint.every=7"}).identity_yaml(),
              identity);
    EXPECT_NE(load(good_, {"train.learning_rate=1e-3"}).identity_yaml(), identity);
    EXPECT_NE(load(good_, {"data.train=other.jsonl"}).identity_yaml(), identity);
}

TEST_F(RunFileTest, KeysThatAreNoTextAreRefused) {
    EXPECT_NE(error("model: {base: m}\ndata: {train: [{{path: a}: 1}]}\noutput: o\n")
                  .find("run.yaml:2: \"data.train\" is a list; expected path and weight"),
              std::string::npos);
    EXPECT_NE(error(good_ + "{a: 1}: 2\n").find("run.yaml:4: unknown key \"\""), std::string::npos);
}

TEST_F(RunFileTest, AMovedFolderKeepsItsIdentity) {
    const RunFile here = parse_run_file(good_, "/here/run.yaml", {});
    const RunFile there = parse_run_file(good_, "/else/where/run.yaml", {});
    EXPECT_NE(here.to_yaml(), there.to_yaml());
    EXPECT_EQ(here.identity_yaml(), there.identity_yaml());
}

TEST_F(RunFileTest, ErrorsNameFileLineKeyAndTheNearestKnownKey) {
    EXPECT_NE(
        error("model: {base: m}\nadapter:\n  lora_alpha: 3\n" + good_.substr(22))
            .find(
                "run.yaml:3: unknown key \"adapter.lora_alpha\"; did you mean \"adapter.alpha\"?"),
        std::string::npos);
    EXPECT_NE(error(good_ + "trian: {seed: 1}\n").find(":4: unknown key \"trian\""),
              std::string::npos);
    EXPECT_NE(
        error(good_ + "train: {seed: x}\n").find("\"train.seed\" is x; expected a whole number"),
        std::string::npos);
    EXPECT_NE(error(good_ + "train: {seed: 1, seed: 2}\n").find("given twice"), std::string::npos);
    EXPECT_NE(error(good_ + "adapter: {r: 0}\n").find("from 1 to 1024"), std::string::npos);
    for (const char* key : {"init_lora_weights: olora", "init_lora_weights: pissa"}) {
        EXPECT_NE(error(good_ + "adapter: {" + key + "}\n").find("not supported yet"),
                  std::string::npos)
            << key;
    }
    EXPECT_NE(error(good_ + "adapter: {rank_pattern: {q_proj: 0}}\n").find("1 to 1024"),
              std::string::npos);
    EXPECT_NE(error(good_ + "placement: {mode: pipeline}\n").find("not supported yet"),
              std::string::npos);
    EXPECT_NE(error(good_ + "train: 3\n").find("section"), std::string::npos);
    EXPECT_NE(error(good_ + "train: {micro_batch_size: 3}\n").find("Try 18"), std::string::npos);
    EXPECT_NE(error("model: {base: [}\n").find("not valid YAML"), std::string::npos);
    EXPECT_NE(error("data: {train: a}\noutput: o\n").find("\"model.base\" is missing"),
              std::string::npos);
    EXPECT_NE(error(good_, {"train.seed"}).find("expected key.path=value"), std::string::npos);
    EXPECT_NE(error(good_, {"train.sed=1"}).find("did you mean \"train.seed\"?"),
              std::string::npos);
    EXPECT_NE(error(good_, {"placement.memory_limit=much"}).find("24GiB"), std::string::npos);
    EXPECT_NE(error(good_, {"adapter.layers=[x]"}).find("0-11"), std::string::npos);
}

TEST_F(RunFileTest, ChangesAreNamedWithBothValuesAndAMoveIsNone) {
    const RunFile here = load(good_ + "adapter: {init_from: x/adapter}\n");
    RunFile there =
        parse_run_file(good_ + "adapter: {init_from: /y/adapter}\n", "/else/run.yaml", {});
    EXPECT_TRUE(changed_keys(there, here).empty());
    there = load(good_, {"train.learning_rate=1e-5", "adapter.r=4", "data.packing=false",
                         "placement.threads=2", "adapter.init_from=other"});
    std::vector<std::string> said;
    for (const ChangedKey& key : changed_keys(there, here)) {
        said.push_back(
            fmt::format("{} {} {} {} {}", key.path, key.there, key.here, key.fixed, key.shown_by));
    }
    EXPECT_EQ(said,
              (std::vector<std::string>{
                  "adapter.r 4 16 true ", "adapter.init_from other adapter true ",
                  "data.packing false true true data_sha256",
                  "train.learning_rate 1e-05 0.0002 false ", "placement.threads 2 auto false "}));
}

TEST_F(RunFileTest, ARecordedRunOfAnotherVersionIsReadAsFarAsItIsKnown) {
    const RecordedRun recorded = parse_recorded_run(
        "model: {base: /m}\ntrain: {seed: 7, momentum: 0.5, epochs: many}\nfuture: {key: 1}\n");
    EXPECT_EQ(recorded.run.train.seed, 7u);
    EXPECT_EQ(recorded.unknown,
              (std::vector<std::string>{"train.momentum", "train.epochs", "future"}));
    for (const char* bad : {"", "- 1", "{"}) EXPECT_THROW(parse_recorded_run(bad), UserError);
    const RunFile run = load(good_, {"data.template_date=2024-02-29"});
    EXPECT_TRUE(changed_keys(parse_recorded_run(run.to_yaml()).run, run).empty());
}

TEST_F(RunFileTest, ARunFileInsideItsOutputFolderMovesWithIt) {
    const RunFile run = load(good_);
    EXPECT_EQ(parse_run_file(run.to_yaml_inside(), "/new/place/run.yaml", {}).output, "/new/place");
    EXPECT_EQ(parse_run_file(run.to_yaml_inside(), "/new/place/run.yaml", {}).model.base,
              run.model.base);
    EXPECT_EQ(load(good_, {"output=out/"}).output, run.output);
}

TEST_F(RunFileTest, TheDateOfATemplateIsADay) {
    EXPECT_FALSE(load(good_).data.template_date);
    EXPECT_FALSE(load(good_, {"data.template_date=auto"}).data.template_date);
    EXPECT_EQ(load(good_, {"data.template_date=2024-02-29"}).data.template_date, "2024-02-29");
    for (const char* bad : {"2023-02-29", "2024-2-9", "today", "2024/02/09", "2024-13-01"}) {
        EXPECT_NE(error(good_, {fmt::format("data.template_date={}", bad)})
                      .find("expected auto, or a date"),
                  std::string::npos);
    }
}

TEST(ParseBandwidth, BitsAndBytes) {
    EXPECT_EQ(parse_bandwidth("10Gb/s"), 1.25e9);
    EXPECT_EQ(parse_bandwidth("1.5 GB/s"), 1.5e9);
    for (const char* bad : {"", "10", "10Gb", "-1Gb/s", "0Gb/s", "fast", "infGb/s"})
        EXPECT_THROW(parse_bandwidth(bad), UserError) << bad;
}

TEST(ParseBytes, UnitsOfTwoAndTen) {
    EXPECT_EQ(parse_bytes("24GiB"), std::int64_t{24} << 30);
    EXPECT_EQ(parse_bytes("512 MiB"), std::int64_t{512} << 20);
    EXPECT_EQ(parse_bytes("1.5GB"), 1500000000);
    EXPECT_EQ(parse_bytes("1000"), 1000);
    for (const char* bad : {"", "GiB", "-1", "1e40", "12 parsecs", "nan"})
        EXPECT_THROW(parse_bytes(bad), UserError);
}

}  // namespace
}  // namespace qshard
