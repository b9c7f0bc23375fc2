#include <gtest/gtest.h>

#include <cstdlib>

#include "files.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;

// SmolLM2-135M-Instruct.Q4_1.gguf; CRC-32 of tensors as fp32, made by tests/peer/compare_gguf.py
// with gguf 0.19.0 (q and k in Hugging Face's row order).
namespace {
struct Golden {
    const char* name;
    std::uint32_t crc;
};
constexpr Golden kGoldens[] = {
    {"model.embed_tokens.weight", 0x39786908},
    {"model.norm.weight", 0xc6811e6c},
    {"model.layers.0.self_attn.q_proj.weight", 0x568c15c3},
    {"model.layers.7.self_attn.k_proj.weight", 0xbce1a95d},
    {"model.layers.7.self_attn.v_proj.weight", 0x7a84e5d9},
    {"model.layers.29.self_attn.o_proj.weight", 0x2e981036},
    {"model.layers.3.mlp.gate_proj.weight", 0x6a677995},
    {"model.layers.29.mlp.down_proj.weight", 0x975c5ef1},
    {"model.layers.12.post_attention_layernorm.weight", 0x07750728},
};
}  // namespace

TEST(RealModel, TensorsEqualThoseOfTheGgufPackage) {
    const char* path = std::getenv("QSHARD_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "set QSHARD_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf";
    const ModelSource source = open_model_source(path);
    const ModelConfig& config = source.weights->config();
    ASSERT_EQ(config.layers, 30);
    EXPECT_EQ(config.width, 576);
    EXPECT_EQ(config.heads, 9);
    EXPECT_EQ(config.kv_heads, 3);
    EXPECT_EQ(config.head_width, 64);
    EXPECT_EQ(config.vocabulary, 49152);
    EXPECT_TRUE(config.tied_head);
    EXPECT_EQ(config.ropes.at(0).theta, 100000.0);
    ASSERT_TRUE(source.gguf_tokenizer.has_value());
    EXPECT_EQ(source.gguf_tokenizer->tokens.size(), 49152u);
    EXPECT_NE(source.chat_templates.at("default").find("im_start"), std::string::npos);

    std::size_t compared = 0;
    const auto compare = [&](const std::vector<WeightSpec>& weights) {
        for (const WeightSpec& weight : weights) {
            for (const Golden& golden : kGoldens) {
                if (weight.name != golden.name) continue;
                std::vector<float> values(static_cast<std::size_t>(weight.count()));
                source.weights->read(weight, 0, values);
                EXPECT_EQ(crc_of<float>(values), golden.crc) << weight.name;
                ++compared;
            }
        }
    };
    compare(embedding_weights(config));
    for (std::int64_t l = 0; l < config.layers; ++l) compare(layer_weights(config, l));
    EXPECT_EQ(compared, std::size(kGoldens));
}
