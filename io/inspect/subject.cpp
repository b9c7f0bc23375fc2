#include "io/inspect/subject.h"

#include <charconv>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/atomic_file.h"
#include "io/checkpoint/foreign.h"
#include "io/checkpoint/image.h"
#include "io/checkpoint/store.h"
#include "io/peft/adapter_folder.h"
#include "io/peft/tensor_names.h"

namespace qshard::inspect {
namespace {

namespace fs = std::filesystem;

Subject load_file(const fs::path& path) {
    Subject subject;
    subject.path = path;
    if (fs::exists(path.string() + ".json")) {
        const std::vector<std::byte> image = CheckpointStore::read_verified(path);
        subject.bytes = image.size();
        subject.sha256 = sha256_hex(image);
        subject.state = CheckpointStore::load(path);
    } else {
        subject.kind = Kind::kForeignCheckpoint;
        const std::vector<std::byte> image = read_file(path, std::size_t{1} << 36);
        subject.bytes = image.size();
        subject.sha256 = sha256_hex(image);
        subject.state = load_foreign_checkpoint(path);
    }
    return subject;
}

Subject load_peft(const fs::path& folder) {
    PeftAdapter adapter = read_peft_adapter(folder);
    Subject subject;
    subject.kind = Kind::kPeftFolder;
    subject.path = folder;
    subject.bytes = fs::file_size(folder / "adapter_model.safetensors");
    subject.sha256 = adapter.sha256;
    subject.state.tensors = std::move(adapter.tensors);
    subject.state.adapter = std::move(adapter.values);
    subject.state.adapter_config_json = std::move(adapter.config_json);
    return subject;
}

}  // namespace

std::string Subject::kind_text() const {
    switch (kind) {
        case Kind::kCheckpoint:
            return "checkpoint, verified";
        case Kind::kForeignCheckpoint:
            return "checkpoint without a manifest, NOT verified";
        case Kind::kPeftFolder:
            return "PEFT adapter";
    }
    return "";
}

std::optional<fs::path> checkpoints_folder(const fs::path& path) {
    for (const fs::path& folder : {path / "checkpoints", path}) {
        if (fs::is_directory(folder) && !CheckpointStore(folder).list().empty()) return folder;
    }
    return {};
}

Subject load_subject(const fs::path& path) {
    if (!fs::exists(path))
        throw UserError(fmt::format("{}: no such file or folder", path.string()));
    if (!fs::is_directory(path)) return load_file(path);
    if (const auto folder = checkpoints_folder(path)) {
        std::vector<std::string> rejected;
        const CheckpointStore store(*folder);
        const auto loaded = store.load_newest(
            [&](const fs::path&, const std::string& reason) { rejected.push_back(reason); });
        if (loaded) {
            Subject subject = load_file(loaded->file);
            subject.rejected = std::move(rejected);
            return subject;
        }
    }
    for (const fs::path& folder : {path, path / "adapter"}) {
        if (fs::exists(folder / "adapter_config.json")) return load_peft(folder);
    }
    throw UserError(fmt::format(
        "{}: holds neither checkpoints (step-*.h5) nor a PEFT adapter (adapter_config.json)",
        path.string()));
}

TensorPlace place_of(const std::string& key) {
    TensorPlace place;
    std::string rest = key;
    for (const std::string_view list : {".layers.", ".h."}) {  // as GPT-2 has it
        const std::size_t at = rest.find(list);
        if (at == std::string::npos) continue;
        const char* begin = rest.data() + at + list.size();
        const auto [end, error] = std::from_chars(begin, rest.data() + rest.size(), place.layer);
        if (error == std::errc{} && *end == '.') rest = rest.substr(end + 1 - rest.data());
        break;
    }
    if (rest.starts_with(kPeftPrefix)) rest = rest.substr(kPeftPrefix.size());
    const std::size_t lora = rest.find(".lora_");
    place.target = rest.substr(0, lora == std::string::npos ? rest.rfind('.') : lora);
    constexpr std::string_view kBase = ".base_layer";  // of a bias beside LoRA
    if (place.target.ends_with(kBase)) place.target.resize(place.target.size() - kBase.size());
    return place;
}

}  // namespace qshard::inspect
