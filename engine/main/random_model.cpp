#include "main/random_model.h"

#include <cmath>

#include "base/error.h"
#include "base/hash.h"
#include "base/philox.h"

namespace qshard {
namespace {

ModelConfig llama(std::int64_t layers, std::int64_t width, std::int64_t heads,
                  std::int64_t kv_heads, std::int64_t ffn_width, std::int64_t vocabulary,
                  bool tied) {
    ModelConfig config;
    config.family = config.model_type = "llama";
    config.layers = layers;
    config.width = width;
    config.heads = heads;
    config.kv_heads = kv_heads;
    config.head_width = width / heads;
    config.ffn_width = ffn_width;
    config.vocabulary = vocabulary;
    config.max_positions = 8192;
    config.tied_head = tied;
    config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.head_width));
    RopeConfig rope;
    rope.rotary_width = config.head_width;
    config.ropes = {rope};
    config.layer.resize(static_cast<std::size_t>(layers));
    return config;
}

std::uint64_t seed_of(const std::string& name) {
    return std::stoull(sha256_hex(name).substr(0, 16), nullptr, 16);
}

}  // namespace

ModelConfig config_of_shape(const std::string& shape) {
    if (shape == "135m") return llama(30, 576, 9, 3, 1536, 49152, true);
    if (shape == "1b") return llama(16, 2048, 32, 8, 8192, 128256, true);
    if (shape == "8b") return llama(32, 4096, 32, 8, 14336, 128256, false);
    if (shape == "70b") return llama(80, 8192, 64, 8, 28672, 128256, false);
    throw UserError(ExitCode::kUsage,
                    fmt::format("--shape {}: expected 135m, 1b, 8b or 70b", shape));
}

void RandomWeights::read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const {
    const bool gain = weight.rows == 1;
    const float scale = gain ? 0.1f : 1.0f / std::sqrt(static_cast<float>(weight.cols));
    const std::uint64_t seed = seed_of(weight.name);
    for (std::size_t i = 0; i < out.size(); ++i) {
        // A multiplicative hash: a billion weights are wanted within seconds, quality is not.
        std::uint64_t x = (seed + static_cast<std::uint64_t>(first) + i) * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
        const float uniform = static_cast<float>(x >> 40) * 0x1p-23f - 1.0f;
        out[i] = to_float(to_bf16(uniform * scale + (gain ? 1.0f : 0.0f)));
    }
}

StepInfo RandomBatches::step(std::int64_t) const {
    const std::int64_t tokens = slots_ * documents_ * length_;
    return {slots_, tokens, tokens, 0};
}

Slot RandomBatches::slot(std::int64_t step, std::int64_t index) const {
    const Philox random(42, Purpose::kTestData, static_cast<std::uint32_t>(step),
                        static_cast<std::uint32_t>(index));
    const auto token = [&](std::int64_t at) {
        return static_cast<std::int32_t>(
            random.below(static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(vocabulary_)));
    };
    Slot slot;
    for (std::int64_t n = 0; n < documents_ * length_; ++n) {
        if (n % length_ == 0) slot.document_begin.push_back(static_cast<std::int32_t>(n));
        slot.tokens.push_back(token(n));
        slot.targets.push_back(token(n + documents_ * length_));
    }
    slot.document_begin.push_back(static_cast<std::int32_t>(documents_ * length_));
    return slot;
}

}  // namespace qshard
