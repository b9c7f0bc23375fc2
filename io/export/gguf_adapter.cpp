#include "io/export/gguf_adapter.h"

#include <vector>

#include "base/error.h"
#include "io/checkpoint/result_file.h"
#include "io/export/weight_stream.h"
#include "io/formats/gguf_writer.h"
#include "spec/families.h"

namespace qshard {
namespace {

/// A tensor of the file's base that a target adapts: these rows of B, of each expert.
struct FileTarget {
    const AdapterTarget* target;
    Role role;
    std::int64_t first_row, rows;

    std::vector<std::int64_t> extents(std::int64_t fastest, std::int64_t slower) const {
        if (target->experts == 0) return {fastest, slower};
        return {fastest, slower, target->experts};
    }
};

/// GGUF has the experts' gates and ups apart.
std::vector<FileTarget> file_targets(const AdapterLayout& layout) {
    std::vector<FileTarget> list;
    for (const AdapterTarget& target : layout.targets) {
        if (target.role == Role::kExpertGateUp) {
            const std::int64_t half = target.out / 2;
            list.push_back({&target, Role::kExpertGate, 0, half});
            list.push_back({&target, Role::kExpertUp, half, half});
        } else {
            list.push_back({&target, target.role, 0, target.out});
        }
    }
    return list;
}

/// B[rows, r], of experts [experts, rows, r], as the file has it.
std::vector<float> file_b(const ModelConfig& config, const FileTarget& part, double alpha,
                          bool permuted, std::span<const float> values) {
    const AdapterTarget& target = *part.target;
    const double theirs = alpha / static_cast<double>(target.r);
    const auto factor = static_cast<float>(static_cast<double>(target.scale) / theirs);
    const std::int64_t heads = part.role == Role::kQ   ? config.heads
                               : part.role == Role::kK ? config.kv_heads
                                                       : 0;
    const std::int64_t d = permuted && heads > 0 ? target.out / heads : 0;
    std::vector<float> b;
    b.reserve(static_cast<std::size_t>(target.pairs() * part.rows * target.r));
    for (std::int64_t pair = 0; pair < target.pairs(); ++pair) {
        for (std::int64_t row = part.first_row; row < part.first_row + part.rows; ++row) {
            std::int64_t ours = row;
            if (d > 0) ours = row - row % d + row % d % 2 * (d / 2) + row % d / 2;
            const float* from = values.data() + target.b_of_row(pair * target.out + ours);
            for (std::int64_t k = 0; k < target.r; ++k) b.push_back(from[k] * factor);
        }
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
    const Family& family = gguf_family(family_named(config.family));
    const double alpha = layout.options.alpha;
    GgufHeader header;
    header.text("general.type", "adapter");
    header.text("general.architecture", family.architectures.front());
    header.text("adapter.type", "lora");
    header.f32("adapter.lora.alpha", static_cast<float>(alpha));
    const std::vector<FileTarget> parts = file_targets(layout);
    for (const FileTarget& part : parts) {
        const AdapterTarget& target = *part.target;
        const std::string name = gguf_name(family, part.role, target.layer);
        header.tensor(name + ".lora_a", part.extents(target.in, target.r), GgmlType::kF32);
        header.tensor(name + ".lora_b", part.extents(target.r, part.rows), GgmlType::kF32);
    }
    ResultFile pending(file);
    const std::string text = header.bytes();
    write_padded(pending, std::as_bytes(std::span(text)));
    for (const FileTarget& part : parts) {
        const AdapterTarget& target = *part.target;
        const std::int64_t a_count = target.pairs() * target.r * target.in;
        write_padded(pending, std::as_bytes(values.subspan(static_cast<std::size_t>(target.a),
                                                           static_cast<std::size_t>(a_count))));
        const std::vector<float> b = file_b(config, part, alpha, family.permuted_gguf, values);
        write_padded(pending, std::as_bytes(std::span(b)));
    }
    pending.finish();
    pending.commit();
}

}  // namespace qshard
