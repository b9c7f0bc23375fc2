#pragma once

#include <string>

#include "base/philox.h"
#include "io/checkpoint/state.h"
#include "tests/temp_folder.h"

namespace qshard::test {

/// A state that is a function of (step, layers, width): two targets of rank 2 a layer, AdamW
/// moments.
inline CheckpointState sample_state(std::int64_t step, int layers = 2, std::int64_t width = 8) {
    CheckpointState state;
    state.step = step;
    state.epoch = 0.25 * static_cast<double>(step);
    state.data_step = step + 1;
    state.seed = 0xfedcba9876543210u;
    state.nonfinite_steps = 1;
    std::int64_t offset = 0;
    for (int layer = 0; layer < layers; ++layer) {
        for (const char* target : {"self_attn.q_proj", "mlp.down_proj"}) {
            for (const char* part : {"lora_A", "lora_B"}) {
                NamedTensor tensor;
                tensor.name = "base_model.model.model.layers." + std::to_string(layer) + "." +
                              target + "." + part + ".weight";
                tensor.shape = part[5] == 'A' ? std::vector<std::int64_t>{2, width}
                                              : std::vector<std::int64_t>{width, 2};
                tensor.offset = offset;
                offset += tensor.count();
                state.tensors.push_back(tensor);
            }
        }
    }
    const Philox random(7, Purpose::kTestData, static_cast<std::uint32_t>(step));
    const auto fill = [&](std::vector<float>& values, std::uint64_t stream) {
        for (std::int64_t i = 0; i < offset; ++i) {
            values.push_back(random.uniform(stream * 1000000 + static_cast<std::uint64_t>(i)) -
                             0.5f);
        }
    };
    fill(state.adapter, 0);
    state.optimizer_name = "adamw";
    fill(state.optimizer["exp_avg"], 1);
    fill(state.optimizer["exp_avg_sq"], 2);
    fill_update_norms(state, std::vector<float>(state.adapter.size(), 0.125f));
    state.counters = {{"best_eval_loss", 1.5}, {"tokens", 12345}};
    state.adapter_config_json = "{\n  \"peft_type\": \"LORA\",\n  \"r\": 2\n}";
    state.run_yaml = "model:\n  base: \xc3\xa9t\xc3\xa9.gguf\n";
    state.identity = {{"base_sha256", std::string(64, 'a')}, {"cpu_isa", "avx2"}, {"empty", ""}};
    state.metrics_bytes = 100 * step;
    state.metrics_sha256 = std::string(64, 'b');
    state.loss = 1.0 / static_cast<double>(step + 1);
    state.created = "2025-01-31T12:00:00Z";
    return state;
}

}  // namespace qshard::test
