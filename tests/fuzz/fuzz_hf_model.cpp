#include <algorithm>

#include "base/error.h"
#include "io/formats/hf_model.h"
#include "memory_file.h"
#include "spec/layout.h"

/// A folder: u16 bytes of the shard index (0: none), the index, then the one safetensors file. The
/// config is that of a one-layer Llama.
namespace {

constexpr std::string_view kConfig =
    R"({"model_type":"llama","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,)"
    R"("num_attention_heads":2,"num_key_value_heads":1,"vocab_size":6,"max_position_embeddings":32,)"
    R"("tie_word_embeddings":false,"rope_theta":10000.0,"rms_norm_eps":1e-5,"hidden_act":"silu"})";

void read_all(const qshard::WeightReader& model) {
    const qshard::ModelConfig& config = model.config();
    const auto form = qshard::quantized_form_of(model);
    const qshard::LayoutOptions options = qshard::layout_options_for(
        model, form ? qshard::quantization_of(form->storage) : qshard::Quantization::kNf4, true,
        qshard::DType::kBF16);
    for (const qshard::UnitLayout& unit : qshard::make_layout(config, options).units) {
        for (const qshard::Field& field : unit.fields) {
            std::vector<float> values(static_cast<std::size_t>(field.weight.count()));
            model.read(field.weight, 0, values);
            if (!field.taken) continue;
            for (const qshard::FieldPart& part : qshard::parts_of(field)) {
                std::vector<std::byte> bytes(part.bytes);
                model.read_part(field.weight, part.part, 0, bytes);
            }
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    if (bytes < 2) return 0;
    const std::size_t index = std::min<std::size_t>(data[0] | data[1] << 8, bytes - 2);
    std::string all(reinterpret_cast<const char*>(data) + 2, bytes - 2);
    all += kConfig;
    const auto file = std::make_shared<const qshard::InputFile>(
        memory_file(reinterpret_cast<const std::uint8_t*>(all.data()), all.size()));
    const auto piece = [](std::size_t offset, std::size_t length) {
        return qshard::PartialFile{length, {{0, length, offset}}};
    };
    std::map<std::string, qshard::PartialFile> files = {
        {"config.json", piece(bytes - 2, kConfig.size())},
        {index > 0 ? "model-1.safetensors" : "model.safetensors", piece(index, bytes - 2 - index)}};
    if (index > 0) files.emplace("model.safetensors.index.json", piece(0, index));
    try {
        read_all(*qshard::open_hugging_face_model(qshard::ModelFolder(file, std::move(files))));
    } catch (const qshard::UserError&) {
    }
    return 0;
}
