#include <gtest/gtest.h>

#include <functional>

#include "gguf_builder.h"
#include "io/formats/gguf.h"
#include "io/formats/gguf_config.h"
#include "io/formats/gguf_model.h"
#include "io/formats/model_reader.h"

using namespace qshard;
using namespace qshard::testing;

namespace {

std::unique_ptr<WeightReader> open_bytes(const std::string& bytes) {
    return open_gguf_model(std::make_shared<const GgufFile>(memory_file(bytes, "test.gguf")));
}

WeightSpec weight_of(const WeightReader& model, Role role) {
    for (const auto& list : {embedding_weights(model.config()), layer_weights(model.config(), 0),
                             head_weights(model.config())}) {
        for (const WeightSpec& weight : list) {
            if (weight.role == role) return weight;
        }
    }
    throw std::runtime_error("no such role");
}

std::vector<float> whole(const WeightReader& model, const WeightSpec& weight) {
    std::vector<float> values(static_cast<std::size_t>(weight.count()));
    model.read(weight, 0, values);
    return values;
}

}  // namespace

TEST(Gguf, ConfigComesFromMetadataAndTensors) {
    const auto model = open_bytes(tiny_llama().bytes());
    const ModelConfig& c = model->config();
    EXPECT_EQ(c.family, "llama");
    EXPECT_EQ(c.layers, 1);
    EXPECT_EQ(c.width, 64);
    EXPECT_EQ(c.heads, 2);
    EXPECT_EQ(c.kv_heads, 1);
    EXPECT_EQ(c.head_width, 32);
    EXPECT_EQ(c.ffn_width, 32);
    EXPECT_EQ(c.vocabulary, 5);
    EXPECT_TRUE(c.tied_head);
    EXPECT_EQ(c.norm_eps, 1e-5f);
    EXPECT_EQ(c.ropes.at(0).theta, 50000.0);
    EXPECT_EQ(c.eos_ids, std::vector<std::int32_t>{2});
    EXPECT_EQ(c.layer.size(), 1u);
}

TEST(Gguf, ControlTokensWithTheNameOfAnEndAreEnds) {
    const std::vector<std::string> tokens = {"<|end|>", "a", "</s>", "<|endoftext|>", "<|im_end|>"};
    const std::vector<std::uint32_t> kinds = {3, 1, 3, 1, 3};  // one is plain text
    std::string texts = bytes_of_value<std::uint32_t>(8) + bytes_of_value<std::uint64_t>(5),
                types = bytes_of_value<std::uint32_t>(5) + bytes_of_value<std::uint64_t>(5);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        texts += gguf_string(tokens[i]);
        types += bytes_of_value(kinds[i]);
    }
    const auto model = open_bytes(tiny_llama()
                                      .raw("tokenizer.ggml.tokens", 9, texts)
                                      .raw("tokenizer.ggml.token_type", 9, types)
                                      .bytes());
    EXPECT_EQ(model->config().eos_ids, (std::vector<std::int32_t>{2, 0, 4}));
}

TEST(Gguf, RowsOfQAndKComeBackInHuggingFaceOrder) {
    const auto model = open_bytes(tiny_llama().bytes());
    for (Role role : {Role::kQ, Role::kK}) {
        const WeightSpec weight = weight_of(*model, role);
        const std::vector<float> values = whole(*model, weight);
        for (std::int64_t h = 0; h < weight.rows / 32; ++h) {
            for (std::int64_t i = 0; i < 16; ++i) {
                for (std::int64_t j = 0; j < 2; ++j) {
                    const std::int64_t ours = h * 32 + j * 16 + i, theirs = h * 32 + 2 * i + j;
                    ASSERT_EQ(values[static_cast<std::size_t>(ours * 64 + 3)],
                              static_cast<float>(theirs * 64 + 3));
                }
            }
        }
    }
    const std::vector<float> v = whole(*model, weight_of(*model, Role::kV));
    for (std::size_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], static_cast<float>(i));
}

class Ranges : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Gguf, Ranges, ::testing::Values(0u, 3u, 30u));

TEST_P(Ranges, AnyEqualsThatPartOfTheWhole) {
    const auto model = open_bytes(tiny_llama(GetParam()).bytes());
    Lcg random{99};
    for (Role role : {Role::kQ, Role::kK, Role::kV, Role::kDown, Role::kEmbed}) {
        const WeightSpec weight = weight_of(*model, role);
        const std::vector<float> values = whole(*model, weight);
        for (int trial = 0; trial < 300; ++trial) {
            const auto first = static_cast<std::size_t>(random.next() >> 8) % (values.size() + 1);
            const auto count =
                static_cast<std::size_t>(random.next() >> 8) % (values.size() - first + 1);
            std::vector<float> part(count, -1e30f);
            model->read(weight, static_cast<std::int64_t>(first), part);
            ASSERT_TRUE(std::equal(part.begin(), part.end(),
                                   values.begin() + static_cast<std::ptrdiff_t>(first)))
                << first << " " << count;
            std::vector<bf16> rounded(count);
            model->read_bf16(weight, static_cast<std::int64_t>(first), rounded);
            for (std::size_t i = 0; i < count; ++i)
                ASSERT_EQ(rounded[i].bits, to_bf16(part[i]).bits);
        }
        std::vector<float> outside(2);
        EXPECT_THROW(model->read(weight, weight.count() - 1, outside), BugError);
        std::vector<bf16> outside_too(2);
        EXPECT_THROW(model->read_bf16(weight, weight.count() - 1, outside_too), BugError);
    }
}

TEST(Gguf, DtypesOfTheSource) {
    const auto model = open_bytes(tiny_llama(3).bytes());
    EXPECT_EQ(model->source_dtype(weight_of(*model, Role::kQ)), DType::kBF16);
    EXPECT_FALSE(model->reads_bf16(weight_of(*model, Role::kQ))) << "Q4_1 as fp32";
    EXPECT_EQ(model->source_dtype(weight_of(*model, Role::kEmbed)), DType::kF32);
    const auto brain = open_bytes(tiny_llama(30).bytes());
    EXPECT_TRUE(brain->reads_bf16(weight_of(*brain, Role::kQ)));
}

TEST(Gguf, GemmasNormsLoseTheOneThatItsFilesAdd) {
    GgufBuilder b;
    b.text("general.architecture", "gemma2")
        .u32("gemma2.block_count", 1)
        .u32("gemma2.embedding_length", 32);
    b.u32("gemma2.feed_forward_length", 32)
        .u32("gemma2.attention.head_count", 1)
        .u32("gemma2.attention.key_length", 32);
    b.u32("gemma2.attention.value_length", 32)
        .f32("gemma2.attn_logit_softcapping", 50)
        .u32("gemma2.attention.sliding_window", 16);
    b.ramp("token_embd.weight", {32, 4}).ramp("output_norm.weight", {32}, 1.0f);
    for (const char* name :
         {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
        b.ramp(std::string("blk.0.") + name + ".weight", {32, 32});
    }
    for (const char* name : {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"}) {
        b.ramp(std::string("blk.0.") + name + ".weight", {32}, 1.0f);
    }
    const auto model = open_bytes(b.bytes());
    EXPECT_EQ(whole(*model, weight_of(*model, Role::kPostFfnNorm))[5], 5.0f);
    EXPECT_EQ(whole(*model, weight_of(*model, Role::kFinalNorm))[0], 0.0f);
    EXPECT_EQ(whole(*model, weight_of(*model, Role::kQ))[40], 40.0f) << "not permuted";
    EXPECT_EQ(model->config().attention_softcap, 50.0f);
    EXPECT_EQ(model->config().layer.at(0).window, 16);
}

TEST(Gguf, Phi3KeepsFusedProjectionsAndLongPositions) {
    GgufBuilder b;
    b.text("general.architecture", "phi3").u32("phi3.block_count", 1);
    b.u32("phi3.context_length", 256).u32("phi3.rope.scaling.original_context_length", 64);
    b.u32("phi3.embedding_length", 32).u32("phi3.feed_forward_length", 24);
    b.u32("phi3.attention.head_count", 2).u32("phi3.attention.head_count_kv", 1);
    b.u32("phi3.rope.dimension_count", 12).f32("phi3.rope.scaling.attn_factor", 1.25f);
    b.u32("phi3.attention.sliding_window", 0);
    b.ramp("token_embd.weight", {32, 4}).ramp("output_norm.weight", {32});
    b.ramp("blk.0.attn_norm.weight", {32}).ramp("blk.0.ffn_norm.weight", {32});
    b.ramp("blk.0.attn_qkv.weight", {32, 64}).ramp("blk.0.attn_output.weight", {32, 32});
    b.ramp("blk.0.ffn_up.weight", {32, 48}).ramp("blk.0.ffn_down.weight", {24, 32});
    b.ramp(kRopeLongFactors, {6}, 2.0f).ramp(kRopeShortFactors, {6}, 1.0f);
    const auto model = open_bytes(b.bytes());
    const ModelConfig& c = model->config();
    EXPECT_EQ(layer_weights(c, 0)[0].parts.size(), 3u);
    EXPECT_EQ(whole(*model, weight_of(*model, Role::kGateUp))[47 * 32], 47.0f * 32.0f);
    const RopeConfig& rope = c.ropes.at(0);
    EXPECT_EQ(rope.kind, RopeKind::kLongrope);
    EXPECT_EQ(rope.rotary_width, 12);
    EXPECT_EQ(rope.factor, 4.0);
    EXPECT_EQ(rope.attention_factor, 1.25);
    EXPECT_EQ(rope.long_factor, (std::vector<double>{2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(rope.short_factor[5], 6.0);
    EXPECT_EQ(rope.original_max_positions, 64);
    EXPECT_TRUE(c.renews_keys);
    EXPECT_EQ(c.layer.at(0).window, 0);
}

TEST(Gguf, LongPositionsMayBeNamedWhereTheirDivisorsAre) {
    GgufBuilder b = tiny_llama();
    b.text("llama.rope.scaling.type", "longrope");
    EXPECT_THROW(open_bytes(b.bytes()), UserError);
    b.u32("llama.rope.scaling.original_context_length", 32);
    b.ramp(kRopeLongFactors, {16}, 2.0f).ramp(kRopeShortFactors, {16}, 1.0f);
    const RopeConfig rope = open_bytes(b.bytes())->config().ropes.at(0);
    EXPECT_EQ(rope.kind, RopeKind::kLongrope);
    EXPECT_EQ(rope.original_max_positions, 32);
    EXPECT_EQ(rope.factor, 4.0);
}

TEST(Gguf, ExpertsAreSlicesOfOneTensor) {
    GgufBuilder b;
    b.text("general.architecture", "qwen3moe").u32("qwen3moe.block_count", 1);
    b.u32("qwen3moe.embedding_length", 32).u32("qwen3moe.feed_forward_length", 64);
    b.u32("qwen3moe.attention.head_count", 1).u32("qwen3moe.attention.key_length", 16);
    b.u32("qwen3moe.attention.value_length", 16).u32("qwen3moe.expert_count", 3);
    b.u32("qwen3moe.expert_used_count", 2).u32("qwen3moe.expert_feed_forward_length", 8);
    b.ramp("token_embd.weight", {32, 4}).ramp("output_norm.weight", {32});
    for (const char* name : {"attn_norm", "ffn_norm"})
        b.ramp(fmt::format("blk.0.{}.weight", name), {32});
    for (const char* name : {"attn_q_norm", "attn_k_norm"})
        b.ramp(fmt::format("blk.0.{}.weight", name), {16});
    for (const char* name : {"attn_q", "attn_k", "attn_v"})
        b.ramp(fmt::format("blk.0.{}.weight", name), {32, 16});
    b.ramp("blk.0.attn_output.weight", {16, 32}).ramp("blk.0.ffn_gate_inp.weight", {32, 3});
    b.ramp("blk.0.ffn_gate_exps.weight", {32, 8, 3}).ramp("blk.0.ffn_up_exps.weight", {32, 8, 3});
    b.ramp("blk.0.ffn_down_exps.weight", {8, 32, 3}, 0.5f);
    const auto model = open_bytes(b.bytes());
    const ModelConfig& c = model->config();
    EXPECT_TRUE(c.layer.at(0).experts && c.normalized_experts);
    EXPECT_EQ(c.expert_width, 8);
    int downs = 0;
    for (const WeightSpec& weight : layer_weights(c, 0)) {
        if (weight.role != Role::kExpertDown) continue;
        const std::vector<float> values = whole(*model, weight);
        EXPECT_EQ(values.size(), 256u);
        EXPECT_EQ(values[7], 0.5f + 7.0f + 256.0f * static_cast<float>(weight.expert));
        ++downs;
    }
    EXPECT_EQ(downs, 3);
}

TEST(Gguf, RopeDivisorsAndTokenizerAreRead) {
    GgufBuilder b = tiny_llama();
    b.ramp("rope_freqs.weight", {16}, 1.0f);
    b.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "smollm");
    b.raw("tokenizer.ggml.tokens", 9,
          bytes_of_value<std::uint32_t>(8) + bytes_of_value<std::uint64_t>(3) + gguf_string("a") +
              gguf_string("b") + gguf_string("ab"));
    b.raw("tokenizer.ggml.token_type", 9,
          bytes_of_value<std::uint32_t>(5) + bytes_of_value<std::uint64_t>(3) + bytes_of_value(1) +
              bytes_of_value(3) + bytes_of_value(1));
    b.raw("tokenizer.ggml.add_bos_token", 7, std::string(1, '\1'))
        .text("tokenizer.chat_template", "{{ messages }}");
    TempFolder folder;
    const ModelSource source = open_model_source(folder.write("m.gguf", b.bytes()));
    EXPECT_EQ(source.kind, "gguf");
    EXPECT_EQ(source.chat_templates.at("default"), "{{ messages }}");
    ASSERT_TRUE(source.gguf_tokenizer.has_value());
    EXPECT_EQ(source.gguf_tokenizer->tokens.at(2), "ab");
    EXPECT_EQ(source.gguf_tokenizer->token_types, (std::vector<std::int32_t>{1, 3, 1}));
    EXPECT_EQ(source.gguf_tokenizer->add_bos, true);
    EXPECT_EQ(source.gguf_tokenizer->eos, 2);
    EXPECT_FALSE(source.gguf_tokenizer->bos.has_value());
    EXPECT_EQ(source.weights->config().ropes.at(0).frequency_divisors.at(15), 16.0f);
    EXPECT_EQ(source.weights->sha256().size(), 64u);
}

TEST(Gguf, TruncationAtEveryByteIsRefused) {
    const std::string bytes = tiny_llama(3).bytes();
    open_bytes(bytes);
    const std::size_t header = bytes.size() - tiny_llama(3).data.size();
    for (std::size_t length = 0; length < bytes.size(); length += length < header + 64 ? 1 : 101) {
        EXPECT_THROW(open_bytes(bytes.substr(0, length)), UserError) << length;
    }
}

TEST(Gguf, EveryFlippedHeaderByteGivesAModelOrAUserError) {
    const std::string bytes = tiny_llama(3).bytes();
    const std::size_t header = bytes.size() - tiny_llama(3).data.size();
    for (std::size_t i = 0; i < header; ++i) {
        for (unsigned char flip : {0x01, 0x80, 0xff}) {
            std::string broken = bytes;
            broken[i] = static_cast<char>(static_cast<unsigned char>(broken[i]) ^ flip);
            try {
                open_bytes(broken);
            } catch (const UserError&) {
            }
        }
    }
}

TEST(Gguf, HostileFilesAreRefused) {
    using B = GgufBuilder;
    struct Hostile {
        const char* what;
        const char* message;
        std::function<void(B&)> spoil;
    };
    const auto u64 = [](std::uint64_t v) { return bytes_of_value(v); };
    const auto u32 = [](std::uint32_t v) { return bytes_of_value(v); };
    const Hostile cases[] = {
        {"version 1", "version", [](B& b) { b.version = 1; }},
        {"big-endian", "version", [](B& b) { b.version = 3u << 24; }},
        {"a duplicate key", "twice", [](B& b) { b.u32("llama.block_count", 1); }},
        {"an empty key", "empty key", [](B& b) { b.u32("", 1); }},
        {"an unknown value type", "value type", [](B& b) { b.raw("x", 13, ""); }},
        {"nested arrays", "array of arrays",
         [&](B& b) { b.raw("x", 9, u32(9) + u64(1) + u32(4) + u64(0)); }},
        {"an endless array", "items", [&](B& b) { b.raw("x", 9, u32(4) + u64(1ull << 62)); }},
        {"an array past the end", "items", [&](B& b) { b.raw("x", 9, u32(10) + u64(1 << 20)); }},
        {"an endless string", "string", [&](B& b) { b.raw("x", 8, u64(~0ull)); }},
        {"a string past the end", "string", [&](B& b) { b.raw("x", 8, u64(1 << 20)); }},
        {"a truth value of 2", "truth", [](B& b) { b.raw("x", 7, "\2"); }},
        {"an integer above 2^63", "2^63", [&](B& b) { b.raw("x", 10, u64(~0ull)); }},
        {"too many keys", "keys", [](B& b) { b.key_count = 1ull << 40; }},
        {"too many tensors", "tensors", [](B& b) { b.tensor_count = 1ull << 40; }},
        {"a duplicate tensor", "twice", [](B& b) { b.ramp("output_norm.weight", {64}); }},
        {"a long tensor name", "string", [](B& b) { b.ramp(std::string(64, 'x'), {64}); }},
        {"five dimensions", "dimensions",
         [](B& b) {
             b.ramp("x", {1, 1, 1, 1, 1});
         }},
        {"a zero extent", "shape", [](B& b) { b.ramp("x", {0}); }},
        {"a negative extent", "shape",
         [](B& b) {
             b.info("x", {-1, -1}, 0, 0);
         }},
        {"an overflowing shape", "shape",
         [](B& b) {
             b.info("x", {1ll << 40, 1ll << 40}, 0, 0);
         }},
        {"overflowing bytes", "shape", [](B& b) { b.info("x", {1ll << 62}, 0, 0); }},
        {"an unknown tensor type", "unknown type", [](B& b) { b.info("x", {32}, 77, 0); }},
        {"rows that are no blocks", "blocks", [](B& b) { b.info("x", {33}, 2, 0); }},
        {"a hole", "expected",
         [](B& b) {
             b.data += std::string(64, 'x');
             b.ramp("x", {32});
         }},
        {"an overlap", "expected", [](B& b) { b.info("x", {32}, 0, 0); }},
        {"data past the end", "truncated", [](B& b) { b.info("x", {1 << 20}, 0, b.data.size()); }},
        {"alignment 0", "alignment", [](B& b) { b.u32("general.alignment", 0); }},
        {"alignment 24", "alignment", [](B& b) { b.u32("general.alignment", 24); }},
        {"alignment 2^30", "alignment", [](B& b) { b.u32("general.alignment", 1 << 30); }},
        {"a wrong value type", "must be",
         [](B& b) { b.text("llama.rope.dimension_count", "many"); }},
        {"an odd rope width", "even", [](B& b) { b.u32("llama.rope.dimension_count", 3); }},
        {"experts", "expert_used_count", [](B& b) { b.u32("llama.expert_count", 8); }},
        {"an adapter", "expected a model", [](B& b) { b.text("general.type", "adapter"); }},
        {"a split", "one of 3 files",
         [](B& b) { b.raw("split.count", 2, bytes_of_value<std::uint16_t>(3)); }},
        {"an unknown tensor", "not part", [](B& b) { b.ramp("blk.0.attn_q_norm.weight", {32}); }},
        {"a bias of half the projections", "missing",
         [](B& b) { b.ramp("blk.0.attn_q.bias", {64}); }},
    };
    for (const Hostile& c : cases) {
        GgufBuilder b = tiny_llama();
        c.spoil(b);
        expect_refused([&] { open_bytes(b.bytes()); }, c.message, c.what);
    }
}

TEST(Gguf, KeysOfTheArchitectureAreReadHarmlessOrRefused) {
    GgufBuilder harmless = tiny_llama();
    harmless.u32("llama.vocab_size", 5).u32("llama.expert_count", 0);
    harmless.raw("llama.rope.scaling.finetuned", 7, std::string(1, '\1'));
    harmless.raw("llama.attention.causal", 7, std::string(1, '\1'));
    harmless.f32("llama.rope.scaling.attn_factor", 1).u32("llama.expert_shared_count", 0);
    harmless.text("other.key", "of nobody");
    EXPECT_EQ(open_bytes(harmless.bytes())->config().width, 64);

    GgufBuilder yarn = tiny_llama();
    yarn.text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4);
    yarn.f32("llama.rope.scaling.yarn_beta_fast", 16).f32("llama.rope.scaling.yarn_beta_slow", 2);
    const RopeConfig rope = open_bytes(yarn.bytes())->config().ropes.at(0);
    EXPECT_EQ(rope.beta_fast, 16.0);
    EXPECT_EQ(rope.beta_slow, 2.0);

    for (const char* key : {"llama.attention.temperature_scale", "llama.attention.clamp_kqv",
                            "llama.rope.scaling.attn_factor", "llama.logit_scale"}) {
        GgufBuilder b = tiny_llama();
        b.f32(key, 0.5f);
        expect_refused([&] { open_bytes(b.bytes()); }, key, key);
    }
    GgufBuilder off = tiny_llama();
    off.raw("llama.attention.causal", 7, std::string(1, '\0'));
    expect_refused([&] { open_bytes(off.bytes()); }, "attention.causal", "no causal mask");
}

TEST(Gguf, ModelsThatAreNotSupportedAreNamed) {
    GgufBuilder b;
    b.text("general.architecture", "mamba");
    expect_refused([&] { open_bytes(b.bytes()); }, "Supported: gemma", "an unknown architecture");
    GgufBuilder q = tiny_llama();
    q.infos.clear();
    q.data.clear();
    q.tensor_count = 0;
    q.tensor("token_embd.weight", {256, 5}, 10, std::string(5 * 84, 'x'));
    expect_refused([&] { open_bytes(q.bytes()); }, "expected [64, 5]", "a wrong shape");
    expect_refused([] { open_model("/nonexistent.gguf"); }, "there is no model", "an absent file");
    expect_refused([] { open_model("/dev/null"); }, "expected a GGUF file", "a device");
}
