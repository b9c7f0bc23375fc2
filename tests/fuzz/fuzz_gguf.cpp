#include <algorithm>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "io/formats/gguf_model.h"
#include "memory_file.h"
#include "spec/rope.h"

/// A model's files lie one behind the other: each further one begins at the next "GGUF".
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    constexpr std::string_view kMagic = "GGUF";
    std::string_view rest(reinterpret_cast<const char*>(data), bytes);
    const auto next = [&](std::int64_t, std::int64_t) {
        const std::size_t end = std::min(rest.find(kMagic, 1), rest.size());
        const std::string_view file = rest.substr(0, end);
        rest.remove_prefix(end);
        return memory_file(reinterpret_cast<const std::uint8_t*>(file.data()), file.size());
    };
    try {
        const auto file = std::make_shared<const qshard::GgufFile>(next(1, 1), next);
        qshard::gguf_tokenizer(*file);
        const auto model = qshard::open_gguf_model(file);
        model->sha256();
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
