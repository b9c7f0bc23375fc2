#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/error.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/expert_tensors.h"
#include "spec/config_json.h"

/// An adapter folder: u16 bytes of adapter_config.json, it, then adapter_model.safetensors. What is
/// read of it is laid out on two models of one layer, one of them a mixture.
namespace {

using namespace qshard;
namespace fs = std::filesystem;

constexpr std::string_view kLlama =
    R"({"model_type":"llama","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,)"
    R"("num_attention_heads":2,"num_key_value_heads":1,"vocab_size":6,"max_position_embeddings":32,)"
    R"("tie_word_embeddings":false,"rope_theta":10000.0,"rms_norm_eps":1e-5,"hidden_act":"silu"})";
constexpr std::string_view kMixtral =
    R"({"model_type":"mixtral","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,)"
    R"("num_attention_heads":2,"num_key_value_heads":1,"vocab_size":6,"max_position_embeddings":32,)"
    R"("num_local_experts":2,"num_experts_per_tok":1,)"
    R"("tie_word_embeddings":false,"rope_theta":10000.0,"rms_norm_eps":1e-5,"hidden_act":"silu"})";

void write(const fs::path& path, std::string_view bytes) {
    std::ofstream file(path, std::ios::binary);
    if (!file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()))) std::abort();
}

/// What we write of what we read must read back the same.
void check_config(std::string_view text) {
    const std::string ours = peft_config_text(parse_peft_config(text, "fuzz"));
    if (peft_config_text(parse_peft_config(ours, "ours")) != ours) __builtin_trap();
}

void check_tensors(const PeftAdapter& adapter) {
    LooseTensors filed = peft_tensors(adapter.tensors, adapter.values);
    const LooseTensors again = checkpoint_tensors(filed, adapter.config, "ours");
    if (again.size() != adapter.tensors.size()) __builtin_trap();
    for (const NamedTensor& tensor : adapter.tensors) {
        const auto found = again.find(tensor.name);
        if (found == again.end() || found->second.shape != tensor.shape) __builtin_trap();
        const std::vector<float>& values = found->second.values;
        if (!std::equal(values.begin(), values.end(), adapter.values.begin() + tensor.offset,
                        [](float a, float b) { return a == b || (a != a && b != b); }))
            __builtin_trap();
    }
}

void lay_out(const PeftAdapter& adapter, std::string_view model) {
    const AdapterOptions options = adapter_options(adapter.config, adapter.tensors);
    try {
        make_adapter_layout(model_config_from_json(model, "model"), options);
    } catch (const UserError&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    if (bytes < 2) return 0;
    const std::string_view all(reinterpret_cast<const char*>(data) + 2, bytes - 2);
    const std::size_t config = std::min<std::size_t>(data[0] | data[1] << 8, all.size());
    const fs::path folder = fmt::format("/dev/shm/fuzz-peft-{}", ::getpid());
    fs::create_directory(folder);
    write(folder / "adapter_config.json", all.substr(0, config));
    write(folder / "adapter_model.safetensors", all.substr(config));
    try {
        check_config(all.substr(0, config));
        const PeftAdapter adapter = read_peft_adapter(folder);
        check_tensors(adapter);
        for (const std::string_view model : {kLlama, kMixtral}) lay_out(adapter, model);
    } catch (const UserError&) {
    }
    fs::remove_all(folder);
    return 0;
}
