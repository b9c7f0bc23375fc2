#include <gtest/gtest.h>

#include <fstream>

#include "../checkpoint/sample_state.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/base_model.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

std::string card_for(const std::string& base) {
    PeftConfig config;
    config.r = 2;
    config.alpha = 4;
    config.base_model = base;
    CheckpointState state = test::sample_state(7);
    state.identity["quantization"] = "nf4+dq bfloat16";
    return model_card(state, config);
}

bool has(const std::string& card, const std::string& text) {
    return card.find(text) != std::string::npos;
}

/// What is between the first two lines of dashes.
std::string front_of(const std::string& card) {
    return card.substr(0, card.find("---\n", 4));
}

TEST(ModelCard, HubIdsAreToldFromPaths) {
    for (const char* id : {"HuggingFaceTB/SmolLM2-135M", "a/b.c_d-1"}) EXPECT_TRUE(is_hub_id(id));
    for (const char* path : {"", "name", "/a/b", "./b", "../b", "a/b/c", "a/.b", "a/", "a b/c"})
        EXPECT_FALSE(is_hub_id(path)) << path;
}

TEST(ModelCard, AModelOfTheHubIsTheBaseModel) {
    const std::string card = card_for("HuggingFaceTB/SmolLM2-135M");
    EXPECT_TRUE(has(front_of(card), "base_model: \"HuggingFaceTB/SmolLM2-135M\"\n")) << card;
    EXPECT_TRUE(has(card, "from_pretrained(\"HuggingFaceTB/SmolLM2-135M\")")) << card;
}

TEST(ModelCard, AFolderOfTheHubsCacheIsThatModel) {
    const std::string card = card_for("/home/u/hub/models--Qwen--Qwen3-0.6B/snapshots/0a1b2c");
    EXPECT_TRUE(has(front_of(card), "base_model: \"Qwen/Qwen3-0.6B\"\n")) << card;
    EXPECT_TRUE(has(card, "from_pretrained(\"Qwen/Qwen3-0.6B\")")) << card;
}

TEST(ModelCard, AGgufFileIsNoNameOnTheHub) {
    const std::string card = card_for("/models/SmolLM2.Q4_1.gguf");
    EXPECT_FALSE(has(front_of(card), "base_model")) << card;
    EXPECT_TRUE(has(card, "from_pretrained(\"/models\", gguf_file=\"SmolLM2.Q4_1.gguf\")")) << card;
    EXPECT_TRUE(has(card, "llama-cli -m /models/SmolLM2.Q4_1.gguf --lora adapter.gguf")) << card;
    const std::string cached =
        card_for("/hub/models--bartowski--X-GGUF/snapshots/12/X-Q4_K_M.gguf");
    EXPECT_TRUE(has(front_of(cached), "base_model: \"bartowski/X-GGUF\"\n")) << cached;
    EXPECT_TRUE(has(cached, "(\"bartowski/X-GGUF\", gguf_file=\"X-Q4_K_M.gguf\")")) << cached;
}

TEST(ModelCard, AGgufFileOfAnyNameIsKnownByItsBeginning) {
    const TempFolder folder;
    const std::string blob = (folder.path() / "sha256-0a1b").string();
    std::ofstream(blob) << "GGUF\3";
    EXPECT_TRUE(has(card_for(blob), "gguf_file=\"sha256-0a1b\""));
}

TEST(ModelCard, ALocalFolderIsNoNameOnTheHub) {
    const TempFolder folder;
    std::ofstream(folder.path() / "config.json")
        << R"({"_name_or_path":"a/b","quantization_config":{"quant_method":"bitsandbytes"}})";
    const std::string card = card_for(folder.path().string());
    EXPECT_FALSE(has(front_of(card), "base_model")) << card;
    EXPECT_TRUE(has(card, "(bitsandbytes)")) << card;
    EXPECT_TRUE(has(card, "from_pretrained(\"" + folder.path().string() + "\")")) << card;
}

TEST(ModelCard, TellsTheShaAndTheSettings) {
    PeftConfig config;
    config.base_model = "a/b";
    CheckpointState state = test::sample_state(7);
    state.run_yaml =
        "model: {base: m}\ndata: {train: [one.jsonl, two.jsonl], validation: v.jsonl}\n"
        "train: {learning_rate: 3.0e-4, warmup_steps: 9}\noutput: out\n";
    state.counters["data.rows"] = 1234;
    const std::string card = model_card(state, config);
    EXPECT_TRUE(has(card, "| `" + adapter_sha256(state) + "` |")) << card;
    EXPECT_TRUE(
        has(card, "| data | `one.jsonl, two.jsonl; validation: v.jsonl; 1234 rows to train on` |"))
        << card;
    EXPECT_TRUE(has(card, "0.0003, cosine, warmup 9 steps")) << card;
    EXPECT_TRUE(has(card, "| steps | `7` |")) << card;
}

}  // namespace
}  // namespace qshard
