#include "base/error.h"
#include "spec/config_json.h"
#include "spec/rope.h"
#include "spec/weights.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    try {
        const std::string_view text(reinterpret_cast<const char*>(data), bytes);
        const qshard::ModelConfig config = qshard::model_config_from_json(text, "fuzz");
        for (const qshard::WeightSpec& weight : qshard::layer_weights(config, config.layers - 1)) {
            if (weight.count() <= 0) __builtin_trap();
        }
        for (const qshard::RopeConfig& rope : config.ropes) qshard::make_rope(rope, 64);
    } catch (const qshard::UserError&) {
    }
    return 0;
}
