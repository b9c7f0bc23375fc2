#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../gpu/emulated/emulated_cuda.h"
#include "base/philox.h"
#include "guarded_backend.h"
#include "spec/batch.h"
#include "spec/weights.h"

/// Models and data that tests make on the spot, of any size and without a file.
namespace qshard::test {

/// Random weights by position: element i of a weight is a function of (name, i) alone.
class SyntheticReader final : public WeightReader {
  public:
    explicit SyntheticReader(ModelConfig config) : config_(std::move(config)) {}
    const ModelConfig& config() const override { return config_; }
    DType source_dtype(const WeightSpec&) const override { return DType::kBF16; }
    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override {
        const Philox random(std::hash<std::string>{}(weight.name), Purpose::kTestData);
        const float scale =
            weight.rows > 1 ? 1.0f / std::sqrt(static_cast<float>(weight.cols)) : 0.1f;
        const bool norm = weight.rows == 1 && weight.name.ends_with("norm.weight");
        for (std::size_t i = 0; i < out.size(); ++i) {
            const float u = 2.0f * random.uniform(static_cast<std::uint64_t>(first) + i) - 1.0f;
            out[i] = to_float(to_bf16(u * scale * 1.7f + (norm ? 1.0f : 0.0f)));
        }
    }
    std::string sha256() const override { return "synthetic"; }
    std::int64_t file_bytes() const override { return 0; }

  private:
    ModelConfig config_;
};

/// A Llama-shaped model with odd sizes.
inline ModelConfig small_config() {
    ModelConfig c;
    c.family = c.model_type = "llama";
    c.layers = 3;
    c.width = 48;
    c.heads = 3;
    c.kv_heads = 1;
    c.head_width = 16;
    c.ffn_width = 80;
    c.vocabulary = 131;
    c.max_positions = 64;
    c.attention_scale = 0.25f;
    RopeConfig rope;
    rope.rotary_width = 16;
    c.ropes = {rope};
    c.layer.resize(3);
    return c;
}

/// The same with five experts, two a token, in the layers given.
inline ModelConfig mixture_config(std::initializer_list<std::size_t> layers) {
    ModelConfig c = small_config();
    c.family = "mixtral";
    c.experts = 5;
    c.experts_per_token = 2;
    c.expert_width = 36;
    for (const std::size_t layer : layers) c.layer[layer].experts = true;
    return c;
}

/// With layer norms, biases and a fused projection.
inline ModelConfig biased_config() {
    ModelConfig c = small_config();
    c.family = "gpt2";
    c.norm = NormKind::kLayer;
    c.qkv_bias = c.o_bias = c.mlp_bias = c.fused_qkv = true;
    c.gated_mlp = false;
    return c;
}

inline ModelConfig fused_config() {
    ModelConfig c = small_config();
    c.family = "phi3";
    c.fused_qkv = c.fused_gate_up = true;
    return c;
}

/// With norms after each branch.
inline ModelConfig post_norm_config() {
    ModelConfig c = small_config();
    c.family = "gemma2";
    c.post_norms = true;
    return c;
}

inline ModelConfig tied_config() {
    ModelConfig c = small_config();
    c.tied_head = true;
    return c;
}

/// Slots of several documents; the number of slots varies from step to step.
class SyntheticBatches final : public BatchSource {
  public:
    SyntheticBatches(std::int64_t vocabulary, std::int64_t slots, std::int64_t slot_tokens,
                     std::uint64_t seed = 7)
        : vocabulary_(vocabulary), slots_(slots), slot_tokens_(slot_tokens), seed_(seed) {}
    std::int64_t steps_per_epoch() const override { return 1 << 20; }
    StepInfo step(std::int64_t step) const override {
        StepInfo info;
        info.slot_count = step % 3 == 2 ? std::max<std::int64_t>(1, slots_ - 3) : slots_;
        for (std::int64_t i = 0; i < info.slot_count; ++i) {
            const Slot s = slot(step, i);
            info.supervised_tokens += s.supervised();
            info.tokens += static_cast<std::int64_t>(s.tokens.size());
        }
        return info;
    }
    Slot slot(std::int64_t step, std::int64_t index) const override {
        const Philox random(seed_, Purpose::kTestData, static_cast<std::uint32_t>(step),
                            static_cast<std::uint32_t>(index));
        Slot slot;
        const auto count = slot_tokens_ - static_cast<std::int64_t>(random.below(1000000, 5));
        for (std::int64_t n = 0; n < count; ++n) {
            const bool begins = n == 0 || random.below(static_cast<std::uint64_t>(3 * n), 9) == 0;
            if (begins) slot.document_begin.push_back(static_cast<std::int32_t>(n));
            const auto token = [&](std::uint64_t at) {
                return static_cast<std::int32_t>(
                    random.below(at, static_cast<std::uint64_t>(vocabulary_)));
            };
            slot.tokens.push_back(token(static_cast<std::uint64_t>(3 * n + 1)));
            const bool supervised = random.below(static_cast<std::uint64_t>(5000000 + n), 3) != 0;
            slot.targets.push_back(supervised ? token(static_cast<std::uint64_t>(3 * n + 2))
                                              : kIgnoreIndex);
        }
        slot.document_begin.push_back(static_cast<std::int32_t>(count));
        return slot;
    }
    std::string sha256() const override { return "synthetic"; }

  private:
    std::int64_t vocabulary_, slots_, slot_tokens_;
    std::uint64_t seed_;
};

/// cpu, unless QSHARD_TEST_BACKEND says another.
inline std::string_view backend_under_test() {
    const char* name = std::getenv("QSHARD_TEST_BACKEND");
    return name == nullptr ? "cpu" : name;
}

/// Ends a test program as skipped (77) where QSHARD_TEST_BACKEND is cuda and there is no GPU.
class NeedsGpu : public ::testing::Environment {
    void SetUp() override {
        if (backend_under_test() != "cuda") return;
        const CudaPlatform platform = cuda_platform();
        if (!platform.devices.empty()) return;
        std::printf("%s: Skipped\nno GPU: %s\n", __FILE__, platform.problem.c_str());
        std::fflush(stdout);
        std::_Exit(77);
    }
};
inline const auto* const kNeedsGpu = ::testing::AddGlobalTestEnvironment(new NeedsGpu);

/// The backend of this name, by default the one under test. "guarded" is the CPU's over memory that
/// the host cannot touch, computing three slots of 24 tokens together, "guarded_slots" each by
/// itself; "emulated_cuda" is the GPU's with its kernels emulated.
inline std::unique_ptr<Backend> make_backend(int threads, std::string_view name = {}) {
    if (name.empty()) name = backend_under_test();
    if (name == "emulated_cuda") return make_emulated_cuda_backend({});
    if (name == "reference") return make_reference_backend();
    if (name == "cuda") return make_cuda_backend({});
    auto cpu = make_cpu_backend({threads, "auto"});
    if (name == "guarded") return make_guarded_backend(std::move(cpu), std::int64_t{3} * 24);
    if (name == "guarded_slots") return make_guarded_backend(std::move(cpu), 0);
    return cpu;
}

}  // namespace qshard::test
