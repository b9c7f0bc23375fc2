#include "io/peft/adapter_folder.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/dtype.h"
#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/atomic_file.h"
#include "io/formats/safetensors.h"
#include "io/formats/safetensors_writer.h"
#include "io/peft/expert_tensors.h"
#include "io/peft/former_experts.h"
#include "io/peft/tensor_keys.h"
#include "io/peft/tensor_names.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight", kBias = ".bias";
constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

/// Paths of the modules that have LoRA.
std::set<std::string> modules_of(const std::vector<NamedTensor>& tensors) {
    std::set<std::string> modules;
    for (const NamedTensor& tensor : tensors) {
        if (is_lora(tensor.name)) modules.insert(lora_module(tensor.name));
    }
    return modules;
}

/// Whether it is the weight of one of modules_to_save, which PEFT takes for endings of paths.
bool is_saved(std::string_view key, const PeftConfig& config) {
    if (!key.ends_with(kWeight) || is_lora(key)) return false;
    key.remove_suffix(kWeight.size());
    return std::ranges::any_of(config.modules_to_save,
                               [key](const std::string& name) { return key.ends_with(name); });
}

/// Its shape, a vector for magnitudes (which were once written as [1, out] or [out, 1]).
std::vector<std::int64_t> checked_shape(const std::string& key, const SafetensorsTensor& tensor,
                                        const PeftConfig& config, const std::string& file) {
    std::string_view ending;
    for (const std::string_view known : {kLoraA, kLoraB, kMagnitude}) {
        if (key.ends_with(known) && (known != kMagnitude || config.use_dora)) ending = known;
    }
    if (is_saved(key, config)) ending = kWeight;
    if (config.bias != "none" && key.ends_with(kBias) && !is_lora(key)) ending = kBias;
    if (ending.empty() || !key.starts_with(kPeftPrefix) ||
        key.size() <= kPeftPrefix.size() + ending.size()) {
        throw UserError(fmt::format(
            "{}: tensor \"{}\" is not supported; only lora_A.weight and lora_B.weight of linear "
            "modules are, their lora_magnitude_vector if adapter_config.json says use_dora, "
            "weights of its modules_to_save, copies of the base's embedding and head, and the "
            "biases that its bias says (no others, no LoRA on embeddings)",
            file, key));
    }
    std::vector<std::int64_t> shape = tensor.shape;
    if (ending == kMagnitude && shape.size() == 2 && (shape[0] == 1 || shape[1] == 1))
        shape = {tensor.count()};
    const bool vector = ending == kMagnitude || ending == kBias;
    if (shape.size() != (vector ? 1 : 2) || tensor.count() < 1) {
        throw UserError(
            fmt::format("{}: tensor \"{}\" is not a {}", file, key, vector ? "vector" : "matrix"));
    }
    return shape;
}

std::string digest_of(const InputFile& file) {
    Sha256 digest;
    std::vector<std::byte> block(std::size_t{1} << 20);
    for (std::uint64_t at = 0; at < file.bytes(); at += block.size()) {
        block.resize(std::min<std::size_t>(block.size(), file.bytes() - at));
        file.read(at, block.data(), block.size());
        digest.update(block);
    }
    return digest.hex();
}

std::vector<float> widened(const SafetensorsFile& file, const std::string& key,
                           const SafetensorsTensor& tensor) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes));
    file.file().read(tensor.offset, bytes.data(), bytes.size());
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    if (tensor.type == SafetensorsType::kF32) {
        std::memcpy(values.data(), bytes.data(), bytes.size());
        return values;
    }
    if (tensor.type != SafetensorsType::kBF16 && tensor.type != SafetensorsType::kF16) {
        throw UserError(fmt::format("{}: tensor \"{}\" is {}, expected F32, BF16 or F16",
                                    file.file().name(), key, name_of(tensor.type)));
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
        std::uint16_t half = 0;
        std::memcpy(&half, bytes.data() + 2 * i, sizeof half);
        values[i] =
            tensor.type == SafetensorsType::kBF16 ? to_float(bf16{half}) : half_to_float(half);
    }
    return values;
}

/// All of every module, of the rank that the configuration gives it.
void check_modules(const PeftAdapter& adapter, const std::string& file) {
    struct Module {
        std::int64_t rank_a = 0, rank_b = 0, out = 0, magnitudes = 0;
    };
    std::map<std::string, Module> modules;
    for (const NamedTensor& tensor : adapter.tensors) {
        if (!is_lora(tensor.name)) continue;
        Module& module = modules[lora_module(tensor.name)];
        const std::size_t rows = tensor.shape.size() - 2;  // of experts: the second dimension
        if (tensor.name.ends_with(kLoraA)) {
            module.rank_a = tensor.shape[rows];
        } else if (tensor.name.ends_with(kLoraB)) {
            module.out = tensor.shape[rows];
            module.rank_b = tensor.shape[rows + 1];
        } else {
            module.magnitudes = tensor.shape[0];
        }
    }
    const ModuleScales scales(adapter_options(adapter.config, {}));
    for (const auto& [name, module] : modules) {
        const bool lacks_magnitude = adapter.config.use_dora && module.magnitudes == 0;
        if (module.rank_a == 0 || module.rank_b == 0 || lacks_magnitude) {
            throw UserError(fmt::format("{}: {} lacks its lora_{}", file, name,
                                        module.rank_a == 0   ? "A"
                                        : module.rank_b == 0 ? "B"
                                                             : "magnitude_vector"));
        }
        const std::int64_t r = scales.of(parameter_path(name, adapter.config)).r;
        if (module.rank_a != module.rank_b || module.rank_a != r) {
            throw UserError(
                fmt::format("{}: {} has lora_A of rank {} and lora_B of rank {}, "
                            "adapter_config.json says {} by r and rank_pattern",
                            file, name, module.rank_a, module.rank_b, r));
        }
        if (adapter.config.use_dora && module.magnitudes != module.out) {
            throw UserError(fmt::format("{}: {} has {} magnitudes for {} rows of lora_B", file,
                                        name, module.magnitudes, module.out));
        }
    }
    if (modules.empty()) throw UserError(file + ": no tensors of LoRA");
}

}  // namespace

AdapterOptions adapter_options(const PeftConfig& config, const std::vector<NamedTensor>& tensors) {
    AdapterOptions options;
    options.r = config.r;
    options.alpha = config.alpha;
    options.dropout = config.dropout;
    options.use_rslora = config.use_rslora;
    options.use_dora = config.use_dora;
    options.rank_pattern = config.rank_pattern;
    options.alpha_pattern = config.alpha_pattern;
    options.modules_to_save = config.modules_to_save;
    options.bias = meaning(kAdapterBiasWords, config.bias);
    for (const std::string& module : modules_of(tensors)) {
        const std::string path = parameter_path(module, config);
        auto& targets =
            is_parameter_path(path) ? options.target_parameters : options.target_modules;
        targets.push_back(path);
    }
    return options;
}

std::vector<std::string> PeftAdapter::modules() const {
    const std::set<std::string> found = modules_of(tensors);
    return {found.begin(), found.end()};
}

std::set<std::string> chosen_modules(const PeftConfig& config, const ModelConfig& model) {
    std::set<std::string> chosen;
    if (model.experts > 0) return chosen;
    AdapterOptions options;
    options.layers = config.layers_to_transform;
    options.exclude_modules = config.exclude_modules;
    options.exclude_pattern = config.exclude_pattern;
    const auto add = [&] {
        try {
            for (const AdapterTarget& target : make_adapter_layout(model, options).targets)
                chosen.insert(target.module);
        } catch (const UserError&) {  // a name or pattern for other models: it chooses nothing here
        }
    };
    if (config.target_pattern == "all-linear") {
        options.target_modules = {config.target_pattern};
        add();
    } else if (!config.target_pattern.empty()) {
        options.target_pattern = config.target_pattern;
        add();
    }
    for (const std::string& name : config.target_modules) {
        options.target_modules = {name};
        add();
    }
    return chosen;
}

namespace {

/// Tensors under today's names; copies of embeddings are kept apart, unread.
LooseTensors read_tensors(const std::shared_ptr<const SafetensorsFile>& file,
                          PeftAdapter& adapter) {
    const std::string& path = file->file().name();
    LooseTensors loose;
    std::set<std::string> adapters;
    for (const auto& [key, tensor] : file->tensors()) {
        const TensorKey made = tensor_key(key);
        if (made.copy_of_base) continue;
        if (is_embedding_name(made.name) && !is_lora(made.name) &&
            !is_saved(made.name, adapter.config)) {
            adapter.copies.file = file;
            adapter.copies.tensors.emplace(key, tensor);
            continue;
        }
        const bool fresh = loose.emplace(made.name, LooseTensor()).second;
        if (!fresh) {
            throw UserError(
                fmt::format("{}: two tensors are the adapter's \"{}\", one of them \"{}\"", path,
                            made.name, key));
        }
        if (!made.adapter.empty()) adapters.insert(made.adapter);
        refuse_several_adapters(adapters, path);
        loose[made.name] = {checked_shape(made.name, tensor, adapter.config, path),
                            widened(*file, key, tensor)};
    }
    return loose;
}

}  // namespace

PeftAdapter read_peft_adapter(const fs::path& folder) {
    PeftAdapter adapter;
    const fs::path config_path = folder / "adapter_config.json";
    const fs::path weights_path = folder / "adapter_model.safetensors";
    if (!fs::exists(weights_path) && fs::exists(folder / "adapter_model.bin")) {
        throw UserError(
            fmt::format("{}: adapter_model.bin is a pickle and is never read.\nLoad it in PEFT and "
                        "save it again "
                        "with safe_serialization=True.",
                        folder.string()));
    }
    adapter.config_json = InputFile::inside(folder, "adapter_config.json").text(kMaxConfigBytes);
    adapter.config = parse_peft_config(adapter.config_json, config_path.string());
    const auto file = std::make_shared<const SafetensorsFile>(
        InputFile::inside(folder, "adapter_model.safetensors"));
    adapter.sha256 = digest_of(file->file());
    LooseTensors loose = read_tensors(file, adapter);
    if (fuse_former_experts(loose, adapter.config, weights_path.string()))
        adapter.config_json = peft_config_text(adapter.config);
    loose = checkpoint_tensors(loose, adapter.config, weights_path.string());
    for (const auto& [name, tensor] : loose) {
        adapter.tensors.push_back({name, tensor.shape, std::ssize(adapter.values)});
        adapter.values.insert(adapter.values.end(), tensor.values.begin(), tensor.values.end());
    }
    check_modules(adapter, weights_path.string());
    return adapter;
}

void write_peft_adapter(const fs::path& folder, const CheckpointState& state) {
    const PeftConfig config = parse_peft_config(state.adapter_config_json, "adapter_config.json");
    const LooseTensors tensors = peft_tensors(state.tensors, state.adapter);
    std::vector<FloatTensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back({name, tensor.shape, tensor.values});
    make_folder(folder);
    write_file_atomic(folder / "adapter_model.safetensors", safetensors_bytes(std::move(views)));
    write_file_atomic(folder / "adapter_config.json", state.adapter_config_json);
    write_file_atomic(folder / "README.md", model_card(state, config));
}

}  // namespace qshard
