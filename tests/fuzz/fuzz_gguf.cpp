#include <algorithm>
#include <memory>

#include "base/error.h"
#include "io/formats/gguf_model.h"
#include "memory_file.h"
#include "spec/rope.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    try {
        const auto file = std::make_shared<const qshard::GgufFile>(memory_file(data, bytes));
        qshard::gguf_tokenizer(*file);
        const auto model = qshard::open_gguf_model(file);
        for (const qshard::RopeConfig& rope : model->config().ropes) qshard::make_rope(rope, 64);
        for (const qshard::WeightSpec& weight : qshard::layer_weights(model->config(), 0)) {
            const std::int64_t first = weight.count() / 3;
            std::vector<float> values(
                static_cast<std::size_t>(std::min<std::int64_t>(weight.count() - first, 4096)));
            model->read(weight, first, values);
        }
    } catch (const qshard::UserError&) {
    }
    return 0;
}
