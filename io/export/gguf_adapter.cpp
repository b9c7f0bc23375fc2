#include "io/export/gguf_adapter.h"

#include <array>
#include <vector>

#include "base/error.h"
#include "io/export/weight_stream.h"
#include "io/formats/gguf_writer.h"
#include "spec/families.h"

namespace qshard {
namespace {

/// B[out, r] as the file has it.
std::vector<float> file_b(const ModelConfig& config, const AdapterTarget& target, double alpha,
                          bool permuted, std::span<const float> values) {
    const auto r = static_cast<std::size_t>(target.r);
    const double theirs = alpha / static_cast<double>(target.r);
    const auto factor = static_cast<float>(static_cast<double>(target.scale) / theirs);
    const std::int64_t heads = target.role == Role::kQ   ? config.heads
                               : target.role == Role::kK ? config.kv_heads
                                                         : 0;
    const std::int64_t d = permuted && heads > 0 ? target.out / heads : 0;
    std::vector<float> b(static_cast<std::size_t>(target.out) * r);
    for (std::int64_t row = 0; row < target.out; ++row) {
        std::int64_t ours = row;
        if (d > 0) ours = row - row % d + row % d % 2 * (d / 2) + row % d / 2;
        const float* from = values.data() + target.b + ours * target.r;
        for (std::size_t k = 0; k < r; ++k)
            b[static_cast<std::size_t>(row) * r + k] = from[k] * factor;
    }
    return b;
}

}  // namespace

void write_gguf_adapter(const std::filesystem::path& file, const ModelConfig& config,
                        const AdapterLayout& layout, std::span<const float> values) {
    if (layout.options.use_dora) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format(
                "cannot write {}: a GGUF adapter has no place for DoRA's magnitudes. Export "
                "--to merged-gguf instead (or peft, merged-hf).",
                file.string()));
    }
    if (!layout.weights.empty()) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format(
                "cannot write {}: a GGUF adapter has no place for {}, a weight of the base that "
                "this adapter has trained. Export --to merged-gguf instead (or peft, merged-hf).",
                file.string(), layout.weights.front().tensor.name));
    }
    for (const AdapterTarget& target : layout.targets) {
        if (!target.is_parameter()) continue;
        throw UserError(
            ExitCode::kUsage,
            fmt::format("cannot write {}: {} of a mixture of experts is not supported in a GGUF "
                        "adapter. Export --to merged-gguf instead (or peft, merged-hf).",
                        file.string(), target.path()));
    }
    const Family& family = gguf_family(family_named(config.family));
    const double alpha = layout.options.alpha;
    GgufHeader header;
    header.text("general.type", "adapter");
    header.text("general.architecture", family.architectures.front());
    header.text("adapter.type", "lora");
    header.f32("adapter.lora.alpha", static_cast<float>(alpha));
    for (const AdapterTarget& target : layout.targets) {
        const std::string name = gguf_name(family, target.role, target.layer);
        header.tensor(name + ".lora_a", std::array{target.in, target.r}, GgmlType::kF32);
        header.tensor(name + ".lora_b", std::array{target.r, target.out}, GgmlType::kF32);
    }
    PendingFile pending(file);
    const std::string text = header.bytes();
    write_padded(pending, std::as_bytes(std::span(text)));
    for (const AdapterTarget& target : layout.targets) {
        write_padded(pending,
                     std::as_bytes(values.subspan(static_cast<std::size_t>(target.a),
                                                  static_cast<std::size_t>(target.r * target.in))));
        write_padded(pending, std::as_bytes(std::span<const float>(
                                  file_b(config, target, alpha, family.permuted_gguf, values))));
    }
    pending.finish();
    pending.rename();
    sync_folder(file.parent_path());
}

}  // namespace qshard
