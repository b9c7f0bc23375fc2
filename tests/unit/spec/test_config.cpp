#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "spec/config_json.h"
#include "spec/weights.h"

using namespace qshard;

namespace {

constexpr const char* kDimensions =
    R"("hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,)"
    R"("vocab_size":100,"max_position_embeddings":4096)";

ModelConfig parse(const std::string& model_type, const std::string& more = "") {
    return model_config_from_json(fmt::format(R"({{"model_type":"{}",{}{}}})", model_type,
                                              kDimensions, more.empty() ? "" : "," + more),
                                  "config.json");
}

std::string refusal(const std::string& model_type, const std::string& more) {
    try {
        parse(model_type, more);
    } catch (const UserError& error) {
        return error.what();
    }
    return "accepted";
}

std::vector<std::int64_t> windows(const ModelConfig& config) {
    std::vector<std::int64_t> list;
    for (const LayerConfig& layer : config.layer) list.push_back(layer.window);
    return list;
}

bool has(const std::vector<WeightSpec>& weights, Role role) {
    for (const WeightSpec& weight : weights) {
        if (weight.role == role) return true;
    }
    return false;
}

using Windows = std::vector<std::int64_t>;

}  // namespace

TEST(Config, BitsandbytesNeedsNoMethodsName) {
    for (const char* settings :
         {R"({"load_in_4bit":true})", R"({"load_in_8bit":"true","load_in_4bit":null})",
          R"({"quant_method":null,"load_in_4bit":true})", R"({"quant_method":"bitsandbytes"})",
          R"({"quant_method":null})", "{}", "null"}) {
        EXPECT_EQ(parse("llama", std::string(R"("quantization_config":)") + settings).family,
                  "llama")
            << settings;
    }
}

TEST(Config, Llama31InBothDialects) {
    const std::string scaling =
        R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":2048)";
    const ModelConfig old = parse(
        "llama",
        R"("torch_dtype":"bfloat16","rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3",)" +
            scaling + R"(},"attention_bias":false,"eos_token_id":[1,8,9],"x":null)");
    const ModelConfig current = parse(
        "llama",
        R"("dtype":"bfloat16","rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3",)" +
            scaling + R"(},"mlp_bias":false,"eos_token_id":1)");
    for (const ModelConfig& c : {old, current}) {
        EXPECT_EQ(c.family, "llama");
        EXPECT_EQ(c.head_width, 16);
        EXPECT_EQ(c.norm_eps, 1e-6f);
        EXPECT_EQ(c.attention_scale, 0.25f);
        ASSERT_EQ(c.ropes.size(), 1u);
        EXPECT_EQ(c.ropes[0].kind, RopeKind::kLlama3);
        EXPECT_EQ(c.ropes[0].theta, 500000.0);
        EXPECT_EQ(c.ropes[0].factor, 8.0);
        EXPECT_EQ(c.ropes[0].original_max_positions, 2048);
        EXPECT_EQ(c.ropes[0].rotary_width, 16);
        EXPECT_FALSE(c.tied_head);
    }
    EXPECT_EQ(old.eos_ids, (std::vector<std::int32_t>{1, 8, 9}));
    EXPECT_EQ(current.eos_ids, (std::vector<std::int32_t>{1}));
    EXPECT_TRUE(parse("llama", R"("attention_bias":true)").o_bias);
}

TEST(Config, MistralSlidesOnEveryLayer) {
    EXPECT_EQ(windows(parse("mistral", R"("sliding_window":512)")), (Windows{512, 512, 512, 512}));
    EXPECT_EQ(windows(parse("mistral", R"("sliding_window":null)")), (Windows{0, 0, 0, 0}));
    EXPECT_EQ(windows(parse("mistral")), (Windows{4096, 4096, 4096, 4096}));
}

TEST(Config, Qwen2HasBiasesAndASwitchedWindow) {
    const ModelConfig c =
        parse("qwen2", R"("sliding_window":512,"use_sliding_window":false,"max_window_layers":2)");
    EXPECT_TRUE(c.qkv_bias);
    EXPECT_FALSE(c.o_bias);
    EXPECT_EQ(windows(c), (Windows{0, 0, 0, 0}));
    EXPECT_EQ(
        windows(parse("qwen2",
                      R"("sliding_window":512,"use_sliding_window":true,"max_window_layers":2)")),
        (Windows{0, 0, 512, 512}));
    EXPECT_TRUE(has(layer_weights(c, 0), Role::kQBias));
    EXPECT_FALSE(has(layer_weights(c, 0), Role::kOBias));
}

TEST(Config, Qwen3HasQkNorms) {
    const ModelConfig c = parse("qwen3", R"("head_dim":32,"tie_word_embeddings":true)");
    EXPECT_TRUE(c.qk_norm);
    EXPECT_FALSE(c.qkv_bias);
    EXPECT_EQ(c.q_width(), 128);
    EXPECT_TRUE(c.tied_head);
    EXPECT_TRUE(has(layer_weights(c, 0), Role::kKNorm));
    EXPECT_TRUE(has(embedding_weights(c), Role::kFinalNorm));
    EXPECT_TRUE(head_weights(c).empty());
}

TEST(Config, GemmaScalesEmbeddingsAndIgnoresItsActivationKey) {
    const ModelConfig c = model_config_from_json(
        R"({"model_type":"gemma","head_dim":256,"hidden_act":"gelu","hidden_size":3072,"intermediate_size":96,)"
        R"("num_hidden_layers":1,"num_attention_heads":16,"vocab_size":100})",
        "config.json");
    EXPECT_EQ(to_float(to_bf16(c.embed_scale)), 55.5f);
    EXPECT_EQ(c.activation, Activation::kGeluTanh);
    EXPECT_TRUE(c.norm_offset);
    EXPECT_TRUE(c.tied_head);
    EXPECT_FALSE(c.post_norms);
}

TEST(Config, Gemma2AlternatesWindowsAndCaps) {
    const ModelConfig c =
        parse("gemma2", R"("head_dim":16,"query_pre_attn_scalar":64,"sliding_window":8)");
    EXPECT_EQ(windows(c), (Windows{8, 0, 8, 0}));
    EXPECT_EQ(c.attention_softcap, 50.0f);
    EXPECT_EQ(c.logit_softcap, 30.0f);
    EXPECT_EQ(c.attention_scale, 0.125f);
    EXPECT_TRUE(has(layer_weights(c, 0), Role::kPostFfnNorm));
    EXPECT_EQ(parse("gemma2", R"("head_dim":16,"final_logit_softcapping":null)").logit_softcap,
              0.0f);
}

TEST(Config, Gemma3HasTwoRopesInBothDialects) {
    const ModelConfig old = parse(
        "gemma3_text",
        R"("head_dim":16,"rope_theta":1000000.0,"rope_local_base_freq":10000.0,"rope_scaling":{"factor":8.0,"rope_type":"linear"},)"
        R"("sliding_window":8,"sliding_window_pattern":2,"query_pre_attn_scalar":16)");
    const ModelConfig current = parse(
        "gemma3_text",
        R"("head_dim":16,"rope_parameters":{"full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":1000000.0},)"
        R"("sliding_attention":{"rope_type":"default","rope_theta":10000.0}},"sliding_window":8,)"
        R"("layer_types":["sliding_attention","full_attention","sliding_attention","full_attention"],"query_pre_attn_scalar":16)");
    for (const ModelConfig& c : {old, current}) {
        ASSERT_EQ(c.ropes.size(), 2u);
        EXPECT_EQ(c.ropes[0].theta, 1e6);
        EXPECT_EQ(c.ropes[0].kind, RopeKind::kLinear);
        EXPECT_EQ(c.ropes[1].theta, 1e4);
        EXPECT_EQ(c.ropes[1].kind, RopeKind::kDefault);
        EXPECT_EQ(windows(c), (Windows{8, 0, 8, 0}));
        EXPECT_EQ(c.layer[0].rope_index, 1);
        EXPECT_EQ(c.layer[1].rope_index, 0);
        EXPECT_TRUE(c.qk_norm);
        EXPECT_EQ(c.attention_softcap, 0.0f);
    }
}

TEST(Config, MultimodalWrappersGiveTheirTextModel) {
    const ModelConfig c = model_config_from_json(
        R"({"model_type":"gemma3","vision_config":{"hidden_size":1},"eos_token_id":[1,106],"text_config":{"model_type":"gemma3_text",)"
        R"("hidden_size":2560,"intermediate_size":10240,"num_hidden_layers":34,"sliding_window":1024,)"
        R"("rope_scaling":{"factor":8.0,"rope_type":"linear"}}})",
        "config.json");
    EXPECT_TRUE(c.wrapped);
    EXPECT_EQ(c.eos_ids, (std::vector<std::int32_t>{1, 106}));
    EXPECT_EQ(c.width, 2560);
    EXPECT_EQ(c.heads, 8);
    EXPECT_EQ(c.kv_heads, 4);
    EXPECT_EQ(c.head_width, 256);
    EXPECT_EQ(c.vocabulary, 262208);
    EXPECT_EQ(c.attention_scale, 0.0625f);
    EXPECT_EQ(c.layer[4].window, 1024);
    EXPECT_EQ(c.layer[5].window, 0);
    EXPECT_EQ(to_float(to_bf16(c.embed_scale)), 50.5f);
}

TEST(Config, SmolLm3SkipsRopeOnSomeLayers) {
    const ModelConfig listed =
        parse("smollm3", R"("no_rope_layers":[1,0,1,1],"no_rope_layer_interval":4)");
    EXPECT_TRUE(listed.layer[0].rope);
    EXPECT_FALSE(listed.layer[1].rope);
    EXPECT_TRUE(listed.layer[3].rope);
    const ModelConfig absent = parse("smollm3");
    EXPECT_TRUE(absent.layer[2].rope);
    EXPECT_FALSE(absent.layer[3].rope);
    EXPECT_EQ(absent.ropes[0].theta, 2e6);
}

TEST(Config, GraniteHasFourMultipliers) {
    const ModelConfig c = parse(
        "granite",
        R"("embedding_multiplier":12.0,"logits_scaling":8.0,"residual_multiplier":0.22,"attention_multiplier":0.0078125,)"
        R"("attention_dropout":0.1)");
    EXPECT_EQ(c.embed_scale, 12.0f);
    EXPECT_EQ(c.logit_scale, 0.125f);
    EXPECT_EQ(c.residual_scale, 0.22f);
    EXPECT_EQ(c.attention_scale, 0.0078125f);
}

TEST(Config, Starcoder2HasLayerNormsAndAPlainMlp) {
    const ModelConfig c =
        parse("starcoder2",
              R"("norm_epsilon":1e-5,"hidden_act":"gelu_pytorch_tanh","residual_dropout":0.1)");
    EXPECT_EQ(c.norm, NormKind::kLayer);
    EXPECT_FALSE(c.gated_mlp);
    EXPECT_TRUE(c.qkv_bias && c.o_bias && c.mlp_bias);
    EXPECT_TRUE(c.tied_head);
    const std::vector<WeightSpec> weights = layer_weights(c, 0);
    EXPECT_FALSE(has(weights, Role::kGate));
    EXPECT_TRUE(has(weights, Role::kNorm2Bias));
    EXPECT_TRUE(has(weights, Role::kUpBias));
    EXPECT_TRUE(has(embedding_weights(c), Role::kFinalNormBias));
}

TEST(Config, Phi3FusesItsProjections) {
    const ModelConfig c = parse(
        "phi3",
        R"("partial_rotary_factor":0.5,"original_max_position_embeddings":2048,"rope_scaling":{"type":"su",)"
        R"("short_factor":[1,1,1,1],"long_factor":[2,2,2,2]},"sliding_window":512,"resid_pdrop":0.0)");
    const std::vector<WeightSpec> weights = layer_weights(c, 0);
    EXPECT_EQ(weights[0].name, "model.layers.0.self_attn.qkv_proj.weight");
    EXPECT_EQ(weights[0].rows, 64 + 2 * 32);
    EXPECT_EQ(weights[0].parts[2].role, Role::kV);
    EXPECT_EQ(weights[2].name, "model.layers.0.mlp.gate_up_proj.weight");
    EXPECT_EQ(weights[2].rows, 2 * 96);
    EXPECT_FALSE(has(weights, Role::kQ));
    EXPECT_EQ(c.norm_eps, 1e-5f);
    EXPECT_EQ(c.ropes.at(0).kind, RopeKind::kLongrope);
    EXPECT_EQ(c.ropes[0].rotary_width, 8);
    EXPECT_EQ(c.ropes[0].factor, 2.0);
    EXPECT_EQ(windows(c), (Windows{512, 512, 512, 512}));
    EXPECT_TRUE(c.renews_keys);
}

/// As transformers 5 takes them: Phi-3's original length is its own key's or 4096, and a factor
/// that is given rules over the ratio of lengths.
TEST(Config, LongropeHasTheLengthAndFactorOfTransformers) {
    const auto rope = [](const char* family, const std::string& outer, const std::string& inner) {
        return parse(family, outer +
                                 R"("rope_scaling":{"short_factor":[1,1,1,1,1,1,1,1],)"
                                 R"("long_factor":[2,2,2,2,2,2,2,2],)" +
                                 inner + "}")
            .ropes.at(0);
    };
    const std::string key = R"("original_max_position_embeddings")";
    for (const char* name : {"longrope", "su", "yarn"}) {
        const RopeConfig c = rope("phi3", key + ":64,", fmt::format(R"("type":"{}")", name));
        EXPECT_EQ(c.kind, RopeKind::kLongrope) << name;
        EXPECT_EQ(c.original_max_positions, 64);
        EXPECT_EQ(c.factor, 4096.0 / 64);
    }
    const std::string type = R"("type":"longrope")";
    EXPECT_EQ(rope("phi3", "", type + "," + key + ":64").original_max_positions, 4096);
    EXPECT_EQ(rope("phi3", key + ":64,", type + R"(,"factor":9.0)").factor, 9.0);
    EXPECT_EQ(rope("llama", "", type + "," + key + ":64").original_max_positions, 64);
    EXPECT_EQ(rope("llama", key + ":32,", type + "," + key + ":64").original_max_positions, 32);
    EXPECT_FALSE(parse("llama", R"("attention_bias":false)").renews_keys);
}

TEST(Config, Olmo2HasOnlyNormsAfter) {
    const ModelConfig c = parse("olmo2", R"("attention_bias":false)");
    const std::vector<WeightSpec> weights = layer_weights(c, 0);
    EXPECT_FALSE(has(weights, Role::kNorm1));
    EXPECT_FALSE(has(weights, Role::kNorm2));
    EXPECT_TRUE(has(weights, Role::kPostAttentionNorm));
    for (const WeightSpec& weight : weights) {
        const bool q = weight.role == Role::kQNorm, k = weight.role == Role::kKNorm;
        if (q || k) {
            EXPECT_EQ(weight.cols, q ? 64 : 32);
        }
    }
}

TEST(Config, Gpt2HasKeysAndNamesOfItsOwn) {
    const ModelConfig c = model_config_from_json(
        R"({"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"n_inner":null,"vocab_size":100,"n_ctx":1024,)"
        R"("activation_function":"gelu_new","attn_pdrop":0.1,"summary_type":"cls_index"})",
        "config.json");
    EXPECT_EQ(c.ffn_width, 256);
    EXPECT_EQ(c.max_positions, 1024);
    EXPECT_TRUE(c.learned_positions && c.tied_head && c.o_bias && c.mlp_bias && c.conv1d);
    EXPECT_TRUE(c.ropes.empty());
    EXPECT_EQ(c.activation, Activation::kGeluTanh);
    const std::vector<WeightSpec> weights = layer_weights(c, 1);
    EXPECT_EQ(weights[0].name, "transformer.h.1.attn.c_attn.weight");
    EXPECT_TRUE(weights[0].transposed);
    EXPECT_TRUE(has(weights, Role::kQkvBias));
    EXPECT_EQ(embedding_weights(c)[1].name, "transformer.wpe.weight");
    EXPECT_EQ(refusal("gpt2", R"("n_embd":64,"n_layer":2,"n_head":4)").find("accepted"),
              std::string::npos)
        << "keys of another family are refused";
}

TEST(Config, MixturesOfExperts) {
    const ModelConfig mixtral =
        parse("mixtral", R"("num_local_experts":8,"num_experts_per_tok":2)");
    EXPECT_EQ(mixtral.expert_width, 96);
    EXPECT_TRUE(mixtral.normalized_experts && mixtral.layer[3].experts);
    const std::vector<WeightSpec> weights = layer_weights(mixtral, 2);
    EXPECT_EQ(weights[4 + 8 + 5].name, "model.layers.2.block_sparse_moe.experts.5.w3.weight");
    EXPECT_EQ(weights[4 + 8 + 5].rows, 96);
    EXPECT_FALSE(has(weights, Role::kDown));
    for (const char* count : {R"("num_experts":6)", R"("num_local_experts":6)"}) {
        const ModelConfig qwen =
            parse("qwen3_moe",
                  std::string(count) +
                      R"(,"num_experts_per_tok":3,"moe_intermediate_size":24,)"
                      R"("decoder_sparse_step":2,"mlp_only_layers":[3],"norm_topk_prob":true)");
        EXPECT_EQ(qwen.experts, 6);
        EXPECT_EQ(qwen.expert_width, 24);
        EXPECT_FALSE(qwen.layer[0].experts || qwen.layer[2].experts || qwen.layer[3].experts);
        EXPECT_TRUE(qwen.layer[1].experts && qwen.normalized_experts && qwen.qk_norm);
        EXPECT_TRUE(has(layer_weights(qwen, 0), Role::kGate));
        EXPECT_EQ(layer_weights(qwen, 1)[4].name, "model.layers.1.mlp.experts.0.gate_proj.weight");
    }
}

TEST(Config, AGatedMlpMayHaveBiases) {
    const std::vector<WeightSpec> weights = layer_weights(parse("llama", R"("mlp_bias":true)"), 0);
    for (Role role : {Role::kGateBias, Role::kUpBias, Role::kDownBias})
        EXPECT_TRUE(has(weights, role));
}

TEST(Config, KeysOfPublishedFilesThatSayWhatTheFamilyDoesAnywayAreAccepted) {
    struct Case {
        const char *family, *keys;
    };
    const Case cases[] = {
        {"phi3",
         R"("attention_bias":false,"auto_map":{"AutoConfig":"configuration_phi3.Phi3Config"},"embd_pdrop":0.0)"},
        {"phi3",
         R"("full_attn_mod":1,"interpolate_factor":1,"lm_head_bias":false,"mlp_bias":false,"attention_bias":false)"},
        {"starcoder2", R"("mlp_type":"default","norm_type":"layer_norm","embedding_dropout":0.1)"},
        {"starcoder2", R"("rms_norm_eps":1e-05)"},  // of the 15B model, which has LayerNorms
        {"llama", R"("_model_name_or_path":"SmolLM2","use_sdpa":true)"},
        {"qwen2", R"("use_mrope":false,"use_sliding_window":false,"sliding_window":4096)"},
        {"gemma2", R"("sliding_window":512,"sliding_window_size":512)"},
        {"llama", R"("activation":"swiglu","_flash_attn_2_enabled":true,"unk_token_id":0)"},
        {"qwen3_moe",
         R"("num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":8,"qkv_bias":false,)"
         R"("use_qk_norm":true,"shared_expert_intermediate_size":0)"},
    };
    for (const Case& c : cases) EXPECT_EQ(refusal(c.family, c.keys), "accepted") << c.keys;
    const ModelConfig gpt2 = model_config_from_json(
        R"({"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"vocab_size":100,"n_special":0,)"
        R"("predict_special_tokens":true,"output_past":true,"_num_labels":1})",
        "config.json");
    EXPECT_EQ(gpt2.width, 64);
    const Case others[] = {
        {"phi3", R"("attention_bias":true)"},
        {"phi3", R"("lm_head_bias":true)"},
        {"phi3", R"("full_attn_mod":2)"},
        {"starcoder2", R"("norm_type":"rms_norm")"},
        {"qwen2", R"("use_mrope":true)"},
        {"qwen2", R"("qkv_bias":false)"},
        {"gemma2", R"("sliding_window":512,"sliding_window_size":256)"},
        {"llama", R"("use_qk_norm":true)"},
        {"llama", R"("activation":"geglu")"},
        {"qwen3_moe", R"("num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":8,)"
                      R"("shared_expert_intermediate_size":64)"},
    };
    for (const Case& c : others) {
        const std::string message = refusal(c.family, c.keys);
        EXPECT_NE(message.find("must be"), std::string::npos) << c.keys << ": " << message;
    }
}

TEST(Config, WhatIsNotUnderstoodIsRefusedByName) {
    EXPECT_NE(refusal("mamba", "").find("Supported: gemma, gemma2"), std::string::npos);
    struct Case {
        const char *family, *keys, *message;
    };
    const Case cases[] = {
        {"llama", R"("use_magic":true)", "use_magic"},
        {"llama", R"("rope_parameters":{"rope_type":"mrope"})", "mrope"},
        {"llama", R"("rope_scaling":{"rope_type":"linear"})", "factor"},
        {"llama", R"("rope_scaling":{"rope_type":"linear","factor":2.0,"mrope_section":[1]})",
         "mrope_section"},
        {"llama", R"("rope_scaling":{"rope_type":"longrope","short_factor":[1],"long_factor":[1]})",
         "short_factor"},
        {"llama", R"("rope_theta":NaN)", "rope_theta"},
        {"llama", R"("rope_theta":-1)", "rope_theta"},
        {"llama", R"("partial_rotary_factor":1.5)", "partial_rotary_factor"},
        {"llama", R"("quantization_config":{"quant_method":"gptq"})", "gptq"},
        {"llama", R"("quantization_config":{"bits":4})", "does not name"},
        {"llama", R"("eos_token_id":[1,1000000])", "the embedding has"},
        {"llama", R"("hidden_act":"mish")", "mish"},
        {"llama", R"("rope_interleaved":true)", "rope_interleaved"},
        {"llama", R"("scale_attn_by_inverse_layer_idx":true)", "scale_attn_by_inverse_layer_idx"},
        {"phi3", R"("scale_attn_weights":false)", "scale_attn_weights"},
        {"olmo2", R"("clip_qkv":8.0)", "clip_qkv"},
        {"phi3", R"("blocksparse_block_size":64)", "blocksparse_block_size"},
        {"llama", R"("num_local_experts":8)", "num_local_experts"},
        {"mixtral", R"("num_experts_per_tok":2)", "num_experts"},
        {"mixtral", R"("num_local_experts":4,"num_experts_per_tok":5)", "num_experts_per_tok"},
        {"mixtral", R"("num_local_experts":4,"num_experts_per_tok":2,"router_jitter_noise":0.1)",
         "router_jitter_noise"},
        {"mixtral", R"("num_local_experts":4,"num_experts_per_tok":2,"output_router_logits":true)",
         "output_router_logits"},
        {"qwen3_moe",
         R"("num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":8,"mlp_only_layers":[4])",
         "mlp_only_layers"},
        {"llama", R"("head_dim":0)", "head_dim"},
        {"llama", R"("head_dim":15)", "head_dim"},
        {"llama", R"("rms_norm_eps":"small")", "rms_norm_eps"},
        {"llama", R"("rms_norm_eps":Infinity)", "rms_norm_eps"},
        {"llama", R"("layer_types":["full_attention"])", "layer_types"},
        {"llama",
         R"("layer_types":["linear_attention","full_attention","full_attention","full_attention"])",
         "layer_types"},
        {"qwen2",
         R"("layer_types":["sliding_attention","full_attention","full_attention","full_attention"])",
         "sliding_window"},
        {"llama", R"("eos_token_id":"2")", "eos_token_id"},
        {"llama", R"("hidden_size":99999999999)", "hidden_size"},
        {"llama", R"("qk_norm":true)", "qk_norm"},
    };
    for (const Case& c : cases) {
        std::string keys = c.keys;
        // A key given twice would be refused for that.
        std::string dimensions = kDimensions;
        if (keys.find("hidden_size") != std::string::npos)
            dimensions = dimensions.substr(dimensions.find(',') + 1);
        try {
            model_config_from_json(
                fmt::format(R"({{"model_type":"{}",{},{}}})", c.family, dimensions, keys),
                "config.json");
            ADD_FAILURE() << keys << ": accepted";
        } catch (const UserError& error) {
            EXPECT_NE(std::string(error.what()).find(c.message), std::string::npos) << error.what();
        }
    }
    EXPECT_THROW(model_config_from_json("[]", "config.json"), UserError);
    EXPECT_THROW(model_config_from_json(R"({"model_type":"llama"})", "config.json"), UserError);
    EXPECT_NE(refusal("llama", R"("vocab_size":5)").find("twice"), std::string::npos);
    EXPECT_EQ(refusal("llama",
                      R"("time_step_limit":null,"pretraining_tp":1,"transformers_version":"5.0")"),
              "accepted");
}
