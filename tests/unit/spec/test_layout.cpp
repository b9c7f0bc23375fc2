#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "spec/adapter.h"
#include "spec/config_json.h"
#include "spec/families.h"
#include "spec/layout.h"

using namespace qshard;

namespace {

ModelConfig llama(bool tied) {
    return model_config_from_json(
        fmt::format(
            R"({{"model_type":"llama","hidden_size":40,"intermediate_size":72,"num_hidden_layers":2,)"
            R"("num_attention_heads":4,"num_key_value_heads":2,"head_dim":10,"vocab_size":50,)"
            R"("max_position_embeddings":64,"tie_word_embeddings":{}}})",
            tied),
        "test");
}

}  // namespace

TEST(Layout, SectionsAreAlignedDisjointAndInsideTheUnit) {
    for (bool tied : {false, true}) {
        for (Quantization quantization :
             {Quantization::kNone, Quantization::kNf4, Quantization::kFp4, Quantization::kInt8}) {
            for (bool double_quant : {false, true}) {
                const ModelLayout layout = make_layout(
                    llama(tied), {.quantization = quantization, .double_quant = double_quant});
                EXPECT_EQ(layout.layers(), 2);
                for (const UnitLayout& unit : layout.units) {
                    std::vector<FieldPart> sections;
                    for (const Field& field : unit.fields) {
                        for (const FieldPart& section : parts_of(field))
                            sections.push_back(section);
                    }
                    std::sort(
                        sections.begin(), sections.end(),
                        [](const FieldPart& a, const FieldPart& b) { return a.begin < b.begin; });
                    std::size_t end = 0;
                    for (const FieldPart& section : sections) {
                        EXPECT_EQ(section.begin % kUnitAlignment, 0u);
                        EXPECT_GE(section.begin, end);
                        EXPECT_LT(section.begin - end, kUnitAlignment)
                            << "no holes but for alignment";
                        EXPECT_GT(section.bytes, 0u);
                        end = section.begin + section.bytes;
                    }
                    EXPECT_LE(end, unit.bytes);
                    EXPECT_LT(unit.bytes - end, kUnitAlignment);
                }
            }
        }
    }
}

TEST(Layout, CodesComeFirstAndHaveTheExpectedSizes) {
    const ModelLayout layout = make_layout(llama(true), {});
    const UnitLayout& unit = layout.units.at(layout.layer_unit(1));
    EXPECT_EQ(unit.name, "layer.1");
    const Field& q = unit.at(Role::kQ);
    EXPECT_EQ(q.weight.name, "model.layers.1.self_attn.q_proj.weight");
    EXPECT_EQ(q.weight.module(), "model.layers.1.self_attn.q_proj");
    EXPECT_EQ(q.data, 0u);
    EXPECT_EQ(q.data_bytes, 800u);  // 40 * 40 / 2
    EXPECT_EQ(q.blocks, 25);
    const Field& down = unit.at(Role::kDown);
    EXPECT_EQ(down.weight.rows, 40);
    EXPECT_EQ(down.weight.cols, 72);
    EXPECT_LE(down.data + down.data_bytes, unit.code_bytes);
    EXPECT_GE(unit.at(Role::kNorm1).data, unit.code_bytes);
    EXPECT_EQ(unit.at(Role::kNorm1).dtype, DType::kF32);
    EXPECT_EQ(layout.units.at(0).at(Role::kEmbed).dtype, DType::kBF16);
    EXPECT_EQ(unit.find(Role::kGate)->weight.rows, 72);
    EXPECT_EQ(unit.find(Role::kQBias), nullptr);
    EXPECT_THROW(unit.at(Role::kQBias), BugError);
}

TEST(Layout, EveryQuantizationHasItsSections) {
    const auto sections = [](Quantization quantization, bool double_quant) {
        const ModelLayout layout =
            make_layout(llama(true), {.quantization = quantization, .double_quant = double_quant});
        std::vector<std::size_t> bytes;
        for (const FieldPart& section : parts_of(layout.units.at(1).at(Role::kK)))
            bytes.push_back(section.bytes);
        return bytes;
    };
    using Bytes = std::vector<std::size_t>;  // of k_proj, 20 x 40: 12.5 blocks of 64
    EXPECT_EQ(sections(Quantization::kNone, true), (Bytes{1600}));
    EXPECT_EQ(sections(Quantization::kNf4, false), (Bytes{400, 52}));
    EXPECT_EQ(sections(Quantization::kFp4, true), (Bytes{400, 13, 4, 4}));
    EXPECT_EQ(sections(Quantization::kInt8, true), (Bytes{800, 80}));
    for (const std::string& name : quantization_names())
        EXPECT_EQ(name_of(quantization_named(name)), name);
}

TEST(Layout, LinearsThatAreQuantizedAlreadyKeepTheirForm) {
    LayoutOptions options;
    options.taken = {{"model.layers.0.self_attn.q_proj.weight", {Storage::kFp4, false}},
                     {"model.layers.0.self_attn.k_proj.weight", {}}};
    const UnitLayout unit = make_layout(llama(true), options).units.at(1);
    EXPECT_EQ(unit.at(Role::kQ).storage, Storage::kFp4);
    EXPECT_FALSE(unit.at(Role::kQ).double_quant);
    EXPECT_TRUE(unit.at(Role::kQ).taken);
    EXPECT_EQ(unit.at(Role::kK).storage, Storage::kPlain);
    EXPECT_EQ(unit.at(Role::kK).dtype, DType::kBF16);
    EXPECT_FALSE(unit.at(Role::kK).taken);
    EXPECT_EQ(unit.at(Role::kV).storage, Storage::kNf4);
    EXPECT_FALSE(unit.at(Role::kV).taken);
}

TEST(Layout, ShardsCoverTheUnit) {
    const ModelLayout layout = make_layout(llama(false), {});
    for (const UnitLayout& unit : layout.units) {
        for (int world : {1, 2, 3, 4, 6, 8, 1000}) {
            const std::size_t shard = unit.shard_bytes(world);
            EXPECT_EQ(shard % kUnitAlignment, 0u);
            EXPECT_GE(shard * static_cast<std::size_t>(world), unit.bytes);
            EXPECT_LT(shard, unit.bytes / static_cast<std::size_t>(world) + 1 + kUnitAlignment);
        }
    }
}

TEST(Layout, TheHeadIsAUnitOfItsOwnUnlessTied) {
    const ModelLayout tied = make_layout(llama(true), {});
    EXPECT_EQ(tied.head_unit(), 0u);
    EXPECT_EQ(tied.units.size(), 3u);
    EXPECT_NE(tied.units[0].find(Role::kFinalNorm), nullptr);
    const ModelLayout untied = make_layout(llama(false), {});
    EXPECT_EQ(untied.head_unit(), 3u);
    EXPECT_EQ(untied.units[0].find(Role::kFinalNorm), nullptr);
    EXPECT_EQ(untied.units[3].at(Role::kHead).weight.name, "lm_head.weight");
    EXPECT_GT(untied.bytes(), tied.bytes());
}

TEST(Families, NamesAreUniqueAndComplete) {
    for (const Family& family : families()) {
        EXPECT_EQ(&family_named(family.name), &family);
        for (std::string_view type : family.model_types)
            EXPECT_EQ(family_of_model_type(type), &family) << type;
        for (std::string_view name : family.architectures)
            EXPECT_EQ(family_of_architecture(name), &family) << name;
    }
    EXPECT_THROW(family_named("none"), BugError);
    EXPECT_EQ(hugging_face_name(family_named("gemma2"), Role::kNorm2, 3),
              "model.layers.3.pre_feedforward_layernorm.weight");
    EXPECT_EQ(gguf_name(family_named("gemma2"), Role::kPostAttentionNorm, 3),
              "blk.3.post_attention_norm.weight");
    EXPECT_EQ(hugging_face_name(family_named("llama"), Role::kNorm2, 3),
              "model.layers.3.post_attention_layernorm.weight");
    EXPECT_EQ(hugging_face_name(family_named("starcoder2"), Role::kUp, 0),
              "model.layers.0.mlp.c_fc.weight");
}

TEST(Adapter, PathsOfAWrappedModelGoThroughItsLanguageModel) {
    const ModelConfig config = model_config_from_json(
        R"({"model_type":"gemma3","text_config":{"model_type":"gemma3_text","hidden_size":40,)"
        R"("intermediate_size":72,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":50}})",
        "test");
    AdapterOptions options;
    options.target_modules = {"layers.1.self_attn.q_proj"};
    const AdapterLayout layout = make_adapter_layout(config, options);
    ASSERT_EQ(layout.targets.size(), 1u);
    EXPECT_EQ(tensors_of(layout.targets[0]).front().name,
              "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight");
}

namespace {

ModelConfig mixtral() {
    return model_config_from_json(
        R"({"model_type":"mixtral","hidden_size":40,"intermediate_size":72,"num_hidden_layers":2,)"
        R"("num_attention_heads":4,"vocab_size":50,"num_local_experts":3,"num_experts_per_tok":2})",
        "test");
}

std::string layout_error(const ModelConfig& config, const AdapterOptions& options) {
    try {
        make_adapter_layout(config, options);
    } catch (const UserError& error) {
        EXPECT_EQ(error.code(), ExitCode::kUsage);
        return error.what();
    }
    return "no error";
}

}  // namespace

TEST(Adapter, ExpertsAndRoutersOfAMixtureAreParameters) {
    AdapterOptions options;
    options.r = 4;
    options.alpha = 6;
    options.target_modules = {"all-linear"};
    const AdapterLayout layout = make_adapter_layout(mixtral(), options);
    ASSERT_EQ(layout.targets.size(), 14u);
    const AdapterTarget &gate_up = layout.targets[4], &down = layout.targets[5],
                        &router = layout.targets[6];
    EXPECT_EQ(gate_up.module, "model.layers.0.mlp.experts.gate_up_proj");
    EXPECT_EQ(gate_up.r, 8);  // of w1 and w3
    EXPECT_EQ(gate_up.scale, 1.5f);
    const auto tensors = tensors_of(gate_up);
    EXPECT_EQ(tensors[0].shape, (std::vector<std::int64_t>{3, 8, 40}));
    EXPECT_EQ(tensors[1].shape, (std::vector<std::int64_t>{3, 144, 8}));
    EXPECT_EQ(tensors_of(down)[0].shape, (std::vector<std::int64_t>{3, 4, 72}));
    EXPECT_EQ(router.path(), "model.layers.0.mlp.gate.weight");
    EXPECT_EQ(tensors_of(router)[1].shape, (std::vector<std::int64_t>{3, 4}));
    std::int64_t next = 0;
    for (const AdapterTarget& target : layout.targets) {
        for (const AdapterTensor& tensor : tensors_of(target)) {
            EXPECT_EQ(tensor.offset, next) << tensor.name;
            next += tensor.count();
        }
    }
    EXPECT_EQ(next, layout.count);
    for (const WeightSpec& weight : layer_weights(mixtral(), 0)) {
        if (weight.role != Role::kExpertUp || weight.expert != 2) continue;
        const AdapterPart part = layout.part_of(0, weight);
        EXPECT_EQ(part.target, &gate_up);
        EXPECT_EQ(part.expert, 2);
        EXPECT_EQ(part.first_row, 2 * 144 + 72);
    }
}

TEST(Adapter, NamesOfAMixturesLinearsAreThoseOfItsParameters) {
    AdapterOptions options;
    options.target_modules = {"q_proj", "w2"};
    const AdapterLayout layout = make_adapter_layout(mixtral(), options);
    EXPECT_EQ(layout.options.target_modules, std::vector<std::string>{"q_proj"});
    EXPECT_EQ(layout.options.target_parameters, std::vector<std::string>{"down_proj"});
    EXPECT_EQ(layout.targets.size(), 4u);
    options.target_modules = {};
    options.target_parameters = {"layers.1.mlp.experts.gate_up_proj"};
    const AdapterLayout one = make_adapter_layout(mixtral(), options);
    ASSERT_EQ(one.targets.size(), 1u);
    EXPECT_EQ(one.targets[0].r, options.r);  // named as a parameter it has the rank it is given
    options.target_parameters = {"experts.w1"};
    EXPECT_NE(layout_error(mixtral(), options)
                  .find("\"experts.w1\", which is no parameter of experts or their router of this "
                        "model (found: mlp.experts.down_proj, mlp.experts.gate_up_proj, "
                        "mlp.gate.weight)"),
              std::string::npos);
    options.target_parameters = {};
    options.target_modules = {"w1"};
    EXPECT_NE(layout_error(mixtral(), options).find("names w1 without w3"), std::string::npos);
    options.target_modules = {"all-linear"};
    options.dropout = 0.1;
    EXPECT_NE(layout_error(mixtral(), options).find("adapter.dropout does not go with LoRA on"),
              std::string::npos);
    options.dropout = 0;
    options.use_dora = true;
    EXPECT_NE(layout_error(mixtral(), options).find("adapter.use_dora does not go with"),
              std::string::npos);
    options = {};
    options.target_pattern = ".*\\.w[12]";
    EXPECT_NE(layout_error(mixtral(), options)
                  .find("matches model.layers.0.block_sparse_moe.experts.0.w1, but experts"),
              std::string::npos);
    options.target_pattern = ".*mlp.gate.weight|.*q_proj";
    EXPECT_NE(layout_error(mixtral(), options).find("matches model.layers.0.mlp.gate.weight"),
              std::string::npos);
    options.target_pattern = ".*\\.(q|v)_proj";
    EXPECT_EQ(make_adapter_layout(mixtral(), options).targets.size(), 4u);
}

TEST(Adapter, AFusedProjectionHasOneTarget) {
    const ModelConfig config = model_config_from_json(
        R"({"model_type":"gpt2","n_embd":40,"n_layer":1,"n_head":4,"vocab_size":50})", "test");
    AdapterOptions options;
    options.r = 4;
    options.target_modules = {"c_attn"};
    const AdapterLayout layout = make_adapter_layout(config, options);
    ASSERT_EQ(layout.targets.size(), 1u);
    EXPECT_EQ(layout.targets[0].out, 120);
    EXPECT_EQ(tensors_of(layout.targets[0]).back().name,
              "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight");
}

TEST(Adapter, DoraHasAMagnitudeForEveryRowBehindItsFactors) {
    AdapterOptions options;
    options.r = 4;
    options.target_modules = {"q_proj", "down_proj"};
    const AdapterLayout lora = make_adapter_layout(llama(true), options);
    EXPECT_EQ(lora.rows, 0);
    options.use_dora = true;
    const AdapterLayout layout = make_adapter_layout(llama(true), options);
    EXPECT_EQ(layout.rows, 2 * (40 + 40));
    EXPECT_EQ(layout.count, lora.count + layout.rows);
    std::int64_t next = 0, row = 0;
    for (const AdapterTarget& target : layout.targets) {
        for (const AdapterTensor& tensor : tensors_of(target)) {
            EXPECT_EQ(tensor.offset, next) << tensor.name;
            next += tensor.count();
        }
        EXPECT_EQ(target.first_row, row);
        row += target.out;
        EXPECT_EQ(tensors_of(target).back().name,
                  "base_model.model." + target.module + ".lora_magnitude_vector");
    }
    EXPECT_EQ(next, layout.count);
}

TEST(Families, GgufNamesAreThoseOfLlamaCpp) {
    // What gguf 0.19.0's get_tensor_name_map() makes of the Hugging Face names.
    struct Pair {
        const char *family, *hugging_face, *gguf;
        Role role;
    };
    const Pair pairs[] = {
        {"gpt2", "transformer.wpe.weight", "position_embd.weight", Role::kPositions},
        {"gpt2", "transformer.h.0.ln_1.bias", "blk.0.attn_norm.bias", Role::kNorm1Bias},
        {"gpt2", "transformer.h.0.attn.c_attn.bias", "blk.0.attn_qkv.bias", Role::kQkvBias},
        {"gpt2", "transformer.h.0.mlp.c_proj.weight", "blk.0.ffn_down.weight", Role::kDown},
        {"starcoder2", "model.layers.0.mlp.c_fc.weight", "blk.0.ffn_up.weight", Role::kUp},
        {"phi3", "model.layers.0.self_attn.qkv_proj.weight", "blk.0.attn_qkv.weight", Role::kQkv},
        {"phi3", "model.layers.0.mlp.gate_up_proj.weight", "blk.0.ffn_up.weight", Role::kGateUp},
        {"olmo2", "model.layers.0.post_attention_layernorm.weight",
         "blk.0.post_attention_norm.weight", Role::kPostAttentionNorm},
        {"olmo2", "model.layers.0.post_feedforward_layernorm.weight", "blk.0.post_ffw_norm.weight",
         Role::kPostFfnNorm},
        {"mixtral", "model.layers.0.block_sparse_moe.gate.weight", "blk.0.ffn_gate_inp.weight",
         Role::kRouter},
        {"mixtral", "model.layers.0.block_sparse_moe.experts.0.w2.weight",
         "blk.0.ffn_down_exps.weight", Role::kExpertDown},
        {"qwen3_moe", "model.layers.0.mlp.experts.0.up_proj.weight", "blk.0.ffn_up_exps.weight",
         Role::kExpertUp},
    };
    for (const Pair& pair : pairs) {
        const Family& family = family_named(pair.family);
        EXPECT_EQ(hugging_face_name(family, pair.role, 0), pair.hugging_face);
        EXPECT_EQ(gguf_name(family, pair.role, 0), pair.gguf);
    }
}
