#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>

#include "../checkpoint/sample_state.h"
#include "base/error.h"
#include "io/checkpoint/store.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/peft_config.h"
#include "io/report/run_status.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::sample_state;
using test::TempFolder;

struct Result {
    int code = -1;
    std::string out;
};

/// Runs the program with stderr joined to stdout.
Result inspect(const std::string& arguments) {
    FILE* pipe = ::popen((std::string(QSHARD_INSPECT) + " " + arguments + " 2>&1").c_str(), "r");
    Result result;
    std::array<char, 4096> block;
    for (std::size_t count; (count = std::fread(block.data(), 1, block.size(), pipe)) > 0;) {
        result.out.append(block.data(), count);
    }
    const int status = ::pclose(pipe);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 256;
    return result;
}

/// An output folder with two checkpoints and a metrics log.
class InspectTest : public testing::Test {
  protected:
    InspectTest() {
        CheckpointStore store(run_ / "checkpoints");
        for (int step : {10, 20}) {
            CheckpointState state = sample_state(step);
            PeftConfig config;
            config.r = 2;
            config.alpha = 4;
            config.target_modules = {"down_proj", "q_proj"};
            state.adapter_config_json = peft_config_text(config);
            store.save(state);
        }
        std::ofstream metrics(run_ / "metrics.jsonl");
        for (int step = 1; step <= 50; ++step) {
            metrics << fmt::format("{{\"step\":{},\"epoch\":{},\"loss\":{},\"grad_norm\":0.5}}\n",
                                   step, 0.02 * step, 3.0 / step);
        }
        metrics << R"({"step":51,"lo)";  // torn by a kill
    }
    std::string file(int step) const {
        return (run_ / "checkpoints" / fmt::format("step-{:08}.h5", step)).string();
    }

    TempFolder folder_;
    fs::path run_ = folder_.path() / "run";
};

TEST_F(InspectTest, SummaryOfFolderAndFile) {
    for (const std::string& path : {run_.string(), (run_ / "checkpoints").string(), file(20)}) {
        const Result result = inspect(path);
        EXPECT_EQ(result.code, 0) << result.out;
        EXPECT_NE(result.out.find("verified"), std::string::npos);
        EXPECT_NE(result.out.find("20 (epoch 5)"), std::string::npos) << result.out;
        EXPECT_EQ(result.out.find('\x1b'), std::string::npos) << "colours without a terminal";
    }
    const Result json = inspect("--json " + file(10));
    const auto value = parse_strict_json(json.out, "summary");
    EXPECT_EQ(value.at("step"), 10);
    EXPECT_EQ(value.at("verified"), true);
    EXPECT_EQ(value.at("adapter_sha256").as_string().c_str(), adapter_sha256(sample_state(10)));
}

/// Of the JSON summary of a path.
std::string adapter_sha_of(const std::string& path) {
    const Result result = inspect("--json " + path);
    EXPECT_EQ(result.code, 0) << result.out;
    return parse_strict_json(result.out, path).at("adapter_sha256").as_string().c_str();
}

TEST_F(InspectTest, OneAdapterHasOneSha256WhateverHoldsIt) {
    const std::string wanted = adapter_sha256(sample_state(20).adapter);
    const std::string peft = (run_ / "adapter").string();
    EXPECT_EQ(inspect("export " + run_.string() + " --to peft " + peft).code, 0);
    for (const std::string& path :
         {run_.string(), file(20), peft, peft + "/adapter_model.safetensors"})
        EXPECT_EQ(adapter_sha_of(path), wanted) << path;
    EXPECT_NE(adapter_sha_of(file(10)), wanted);
    const Result same = inspect("diff " + file(20) + " " + peft);
    EXPECT_EQ(same.code, 0) << same.out;
    EXPECT_NE(same.out.find("same adapter, bit for bit"), std::string::npos) << same.out;
}

TEST_F(InspectTest, AlphaIsNoPartOfTheSha256ButOfADiff) {
    const std::string peft = (folder_.path() / "peft").string();
    EXPECT_EQ(inspect("export " + run_.string() + " --to peft " + peft).code, 0);
    PeftConfig config = read_peft_adapter(peft).config;
    config.alpha = 32;
    std::ofstream(peft + "/adapter_config.json") << peft_config_text(config);
    EXPECT_EQ(adapter_sha_of(peft), adapter_sha_of(file(20)));
    EXPECT_NE(inspect(peft).out.find("r 2, alpha 32"), std::string::npos);
    const Result diff = inspect("diff " + file(20) + " " + peft);
    EXPECT_EQ(diff.code, 1) << diff.out;
    EXPECT_NE(diff.out.find("lora_alpha  4  32"), std::string::npos) << diff.out;
    EXPECT_NE(diff.out.find("values are the same, bit for bit"), std::string::npos) << diff.out;
}

TEST_F(InspectTest, AnOutputFolderTellsHowTheRunStands) {
    RunStatus status;
    status.state = "failed";
    status.step = 25;
    status.total_steps = 40;
    status.exit_code = 74;
    status.cause = RunCause{0, "", 0, 0, "save", "the disk is full"};
    write_run_status(run_ / "run_status.json", status);
    write_peft_adapter(run_ / "adapter", CheckpointStore::load(file(10)));  // not the newest
    const Result text = inspect(run_.string());
    EXPECT_NE(text.out.find("failed: step 25 of 40"), std::string::npos) << text.out;
    EXPECT_NE(text.out.find("the disk is full"), std::string::npos) << text.out;
    EXPECT_NE(text.out.find("has the values of step-00000010.h5"), std::string::npos) << text.out;
    const auto run =
        parse_strict_json(inspect("--json " + run_.string()).out, "run").at("run").as_object();
    EXPECT_EQ(run.at("state"), "failed");
    EXPECT_EQ(run.at("adapter").at("checkpoint"), "step-00000010.h5");
    EXPECT_EQ(run.at("checkpoints").as_array().size(), 2u);
    EXPECT_EQ(run.at("checkpoints").at(0).at("adapter_sha256").as_string().c_str(),
              adapter_sha_of(file(20)));
    std::ofstream(run_ / "run_status.json") << "{\"state\":";
    EXPECT_EQ(inspect(run_.string()).code, 0) << "the rest is shown";
}

TEST_F(InspectTest, WhatIsLeftOfARunIsShown) {
    const fs::path bare = folder_.path() / "bare";
    fs::create_directories(bare);
    RunStatus status;
    status.state = "failed";
    status.total_steps = 40;
    status.cause = RunCause{0, "", 0, 0, "load", "no memory left"};
    write_run_status(bare / "run_status.json", status);
    const Result text = inspect(bare.string());
    EXPECT_EQ(text.code, 0) << text.out;
    EXPECT_NE(text.out.find("no memory left"), std::string::npos) << text.out;
    EXPECT_EQ(
        parse_strict_json(inspect("--json " + bare.string()).out, "bare").at("run").at("state"),
        "failed");

    write_peft_adapter(run_ / "adapter", CheckpointStore::load(file(20)));
    for (const int step : {10, 20}) fs::resize_file(file(step), 100);
    const Result damaged = inspect(run_.string());
    EXPECT_EQ(damaged.code, 0) << "the adapter is still there\n" << damaged.out;
    EXPECT_NE(damaged.out.find("passed over: " + file(10)), std::string::npos) << damaged.out;
    fs::remove_all(run_ / "adapter");
    const Result nothing = inspect(run_.string());
    EXPECT_EQ(nothing.code, 65);
    for (const int step : {10, 20})
        EXPECT_NE(nothing.out.find(file(step)), std::string::npos) << nothing.out;
}

TEST_F(InspectTest, EveryMessageNamesTheFile) {
    std::ofstream(file(20) + ".json") << "{}";
    const Result verify = inspect("verify " + run_.string());
    EXPECT_EQ(verify.code, 65);
    EXPECT_NE(verify.out.find("DAMAGED  " + file(20) + ": the manifest is damaged"),
              std::string::npos)
        << verify.out;
    for (const char* command : {"", "tree ", "tensors ", "stats ", "verify "}) {
        const Result result = inspect(command + file(20));
        EXPECT_EQ(result.code, 65) << result.out;
        EXPECT_NE(result.out.find(file(20)), std::string::npos) << command << result.out;
    }
    EXPECT_NE(inspect(run_.string()).out.find("passed over: " + file(20)), std::string::npos);
    for (const char* other : {"model.gguf", "model.safetensors", "notes.txt"}) {
        const fs::path path = folder_.path() / other;
        std::ofstream(path) << (path.extension() == ".gguf" ? "GGUF\3" : "some text");
        const Result result = inspect(path.string());
        EXPECT_EQ(result.code, 65) << result.out;
        EXPECT_NE(result.out.find(other), std::string::npos) << result.out;
        EXPECT_NE(result.out.find("Expected a checkpoint"), std::string::npos) << result.out;
    }
}

TEST_F(InspectTest, DamageIsNamedAndTheOlderOneShown) {
    fs::resize_file(file(20), 1000);
    const Result verify = inspect("verify " + run_.string());
    EXPECT_EQ(verify.code, 65) << verify.out;
    EXPECT_NE(verify.out.find("DAMAGED"), std::string::npos);
    EXPECT_NE(verify.out.find("ok       " + file(10)), std::string::npos) << verify.out;
    const Result summary = inspect(run_.string());
    EXPECT_EQ(summary.code, 0);
    EXPECT_NE(summary.out.find("passed over"), std::string::npos);
    EXPECT_NE(summary.out.find("10 (epoch"), std::string::npos);
    EXPECT_EQ(inspect(file(20)).code, 65);
}

TEST_F(InspectTest, AFileWithoutManifestIsShownAsUnverified) {
    fs::copy_file(file(10), folder_.path() / "foreign.h5");
    const Result result = inspect((folder_.path() / "foreign.h5").string());
    EXPECT_EQ(result.code, 0) << result.out;
    EXPECT_NE(result.out.find("NOT verified"), std::string::npos);
    EXPECT_EQ(inspect("verify " + (folder_.path() / "foreign.h5").string()).code, 65);
}

TEST_F(InspectTest, TreeTensorsAndStats) {
    EXPECT_NE(inspect("tree " + run_.string()).out.find("self_attn.q_proj"), std::string::npos);
    const auto gpt2 = parse_strict_json(
        inspect(std::string("tree --json ") + QSHARD_TEST_DATA + "/golden/tiny/gpt2/whole").out,
        "tree");
    EXPECT_TRUE(gpt2.as_object().contains("layer 0")) << gpt2;
    EXPECT_TRUE(gpt2.at("outside the layers").as_object().contains("lm_head")) << gpt2;
    const Result tensors = inspect("tensors --json " + run_.string());
    EXPECT_EQ(parse_strict_json(tensors.out, "tensors").as_array().size(), 8u) << tensors.out;
    const Result stats = inspect("stats " + run_.string());
    EXPECT_NE(stats.out.find("size of the update by layer"), std::string::npos) << stats.out;
    EXPECT_NE(stats.out.find("####"), std::string::npos) << stats.out;
    const auto json = parse_strict_json(inspect("stats --json " + run_.string()).out, "stats");
    EXPECT_EQ(json.at("layers").as_object().size(), 2u);
    EXPECT_EQ(json.at("targets").as_object().size(), 2u);
    EXPECT_GT(json.at("all").at("update_norm").as_double(), 0);
}

TEST_F(InspectTest, DiffLikeDiff) {
    const Result same = inspect("diff " + file(10) + " " + file(10));
    EXPECT_EQ(same.code, 0) << same.out;
    EXPECT_NE(same.out.find("bit for bit"), std::string::npos);
    const Result other = inspect("diff " + file(10) + " " + file(20));
    EXPECT_EQ(other.code, 1) << other.out;
    EXPECT_NE(other.out.find("8 of 8 tensors differ"), std::string::npos) << other.out;
    const auto json =
        parse_strict_json(inspect("diff --json " + file(10) + " " + file(20)).out, "diff");
    EXPECT_TRUE(json.at("fields").as_object().contains("step"));
}

TEST_F(InspectTest, LogDropsATornLastLineOnly) {
    const Result log = inspect("log " + run_.string());
    EXPECT_EQ(log.code, 0) << log.out;
    EXPECT_NE(log.out.find("0.0600"), std::string::npos) << log.out;
    EXPECT_NE(log.out.find("*"), std::string::npos) << "the loss curve";
    EXPECT_EQ(
        parse_strict_json(inspect("log --json " + run_.string()).out, "log").as_array().size(),
        50u);
    std::ofstream(run_ / "metrics.jsonl") << "{\"step\":1}\nbroken\n{\"step\":2}\n";
    const Result broken = inspect("log " + run_.string());
    EXPECT_EQ(broken.code, 65);
    EXPECT_NE(broken.out.find("metrics.jsonl:2"), std::string::npos) << broken.out;
}

TEST_F(InspectTest, ExportsAPeftFolder) {
    const fs::path out = folder_.path() / "adapter";
    const Result result = inspect("export " + run_.string() + " --to peft " + out.string());
    EXPECT_EQ(result.code, 0) << result.out;
    const PeftAdapter adapter = read_peft_adapter(out);
    EXPECT_EQ(adapter.tensors.size(), 8u);
    EXPECT_NE(inspect(out.string()).out.find("PEFT adapter"), std::string::npos);
    EXPECT_EQ(inspect("export " + run_.string() + " --to zip " + out.string()).code, 64);
}

TEST_F(InspectTest, UsageAndVersion) {
    EXPECT_EQ(inspect("--help").code, 0);
    EXPECT_EQ(inspect("diff --help").code, 0);
    EXPECT_NE(inspect("--version").out.find("without MPI and CUDA"), std::string::npos);
    EXPECT_EQ(inspect("").code, 64);
    EXPECT_EQ(inspect("--no-such-flag x").code, 64);
    const Result missing = inspect("/no/such/file");
    EXPECT_EQ(missing.code, 65);
    EXPECT_NE(missing.out.find("/no/such/file"), std::string::npos);
    EXPECT_EQ(inspect(folder_.path().string()).code, 65);
}

}  // namespace
}  // namespace qshard
