#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "files.h"
#include "spec/weights.h"

/// A Hugging Face folder of a tiny Llama, made by tests.
namespace qshard::testing {

inline constexpr const char* kConfig =
    R"({"model_type":"llama","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,"num_attention_heads":2,)"
    R"("num_key_value_heads":1,"vocab_size":6,"max_position_embeddings":32,"tie_word_embeddings":false,"eos_token_id":1,)"
    R"("rope_theta":10000.0,"rms_norm_eps":1e-5,"hidden_act":"silu"})";

/// Tensors by name with their shapes; values are 0, 1, 2, ... in bf16, from `first` on for one.
using Shapes = std::map<std::string, std::vector<std::int64_t>>;

inline Shapes llama_shapes() {
    const std::string layer = "model.layers.0.";
    return {{"model.embed_tokens.weight", {6, 8}},
            {"model.norm.weight", {8}},
            {"lm_head.weight", {6, 8}},
            {layer + "input_layernorm.weight", {8}},
            {layer + "post_attention_layernorm.weight", {8}},
            {layer + "self_attn.q_proj.weight", {8, 8}},
            {layer + "self_attn.k_proj.weight", {4, 8}},
            {layer + "self_attn.v_proj.weight", {4, 8}},
            {layer + "self_attn.o_proj.weight", {8, 8}},
            {layer + "mlp.gate_proj.weight", {12, 8}},
            {layer + "mlp.up_proj.weight", {12, 8}},
            {layer + "mlp.down_proj.weight", {8, 12}}};
}

inline std::string safetensors_of(const Shapes& shapes, const std::string& dtype = "BF16",
                                  const std::map<std::string, int>& first = {},
                                  const std::string& metadata = "") {
    std::string header = "{" + metadata, data;
    for (const auto& [name, shape] : shapes) {
        std::int64_t count = 1;
        for (std::int64_t extent : shape) count *= extent;
        const std::size_t begin = data.size();
        for (std::int64_t i = 0; i < count; ++i)
            data += bytes_of_value(
                to_bf16(static_cast<float>(i) + (first.contains(name) ? first.at(name) : 0)).bits);
        header += fmt::format(
            "{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
            header.size() > 1 ? "," : "", name, dtype, fmt::join(shape, ","), begin, data.size());
    }
    header += "}";
    if (header.size() % 2 == 0) header += " ";  // data at an odd address
    return bytes_of_value<std::uint64_t>(header.size()) + header + data;
}

inline float value_at(const WeightReader& model, const WeightSpec& weight, std::int64_t at) {
    float value = -1;
    model.read(weight, at, std::span(&value, 1));
    return value;
}

}  // namespace qshard::testing
