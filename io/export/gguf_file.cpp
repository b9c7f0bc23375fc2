#include "io/export/gguf_file.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "io/checkpoint/result_file.h"
#include "io/export/same_model.h"
#include "io/formats/gguf_config.h"
#include "io/formats/gguf_model.h"
#include "spec/families.h"
#include "spec/rope.h"

namespace qshard {
namespace {

GgmlType ggml_type_of(DType dtype) {
    return dtype == DType::kBF16  ? GgmlType::kBF16
           : dtype == DType::kF16 ? GgmlType::kF16
                                  : GgmlType::kF32;
}

/// llama.cpp's number of a whole file of this dtype.
std::uint32_t file_type_of(DType dtype) {
    return dtype == DType::kBF16 ? 32 : dtype == DType::kF16 ? 1 : 0;
}

using NamedFloats = std::pair<const char*, std::vector<float>>;

/// Divisors of the rotary frequencies where the formula is not the plain one of GGUF.
std::vector<NamedFloats> rope_divisors(const ModelConfig& config) {
    if (config.ropes.empty()) return {};
    const RopeConfig& rope = config.ropes[0];
    if (rope.kind == RopeKind::kLongrope) {
        return {{kRopeLongFactors, {rope.long_factor.begin(), rope.long_factor.end()}},
                {kRopeShortFactors, {rope.short_factor.begin(), rope.short_factor.end()}}};
    }
    if (rope.kind != RopeKind::kLlama3) {
        if (rope.frequency_divisors.empty()) return {};
        return {{kRopeFrequencies, rope.frequency_divisors}};
    }
    RopeConfig plain = rope;
    plain.kind = RopeKind::kDefault;
    const std::vector<float> stretched = make_rope(rope, 1).inverse_frequencies;
    std::vector<float> divisors = make_rope(plain, 1).inverse_frequencies;
    for (std::size_t i = 0; i < divisors.size(); ++i) divisors[i] /= stretched[i];
    return {{kRopeFrequencies, divisors}};
}

/// Reads the finished file as any program would.
void check_readable(const std::filesystem::path& file, const ModelConfig& config) {
    const auto written =
        open_gguf_model(std::make_shared<const GgufFile>(InputFile(file)))->config();
    const std::string difference = difference_of(config, written);
    if (difference.empty()) return;
    throw UserError(fmt::format(
        "GGUF files of the architecture \"{}\" cannot express this model's {}; export --to "
        "merged-hf instead",
        written.model_type, difference));
}

/// One tensor of the file to write.
struct FileTensor {
    PlacedWeight placed;
    DType dtype = DType::kF32;
    WeightChange change;
};

FileTensor file_tensor(const ModelConfig& config, const Family& family, const PlacedWeight& placed,
                       DType dtype) {
    const WeightSpec& weight = placed.weight;
    FileTensor tensor{placed, shape_of(weight).size() == 1 ? DType::kF32 : dtype, {}};
    if (family.permuted_gguf) {
        if (weight.role == Role::kQ || weight.role == Role::kQBias)
            tensor.change.interleaved_heads = config.heads;
        if (weight.role == Role::kK || weight.role == Role::kKBias)
            tensor.change.interleaved_heads = config.kv_heads;
    }
    if (family.norm_offset && weight.name.ends_with("norm.weight")) tensor.change.added = 1.0f;
    return tensor;
}

}  // namespace

void write_gguf_model(const std::filesystem::path& file, const WeightReader& weights,
                      GgufHeader metadata, const ExportOptions& options) {
    const ModelConfig& config = weights.config();
    const Family& family = gguf_family(family_named(config.family));
    metadata.u32("general.file_type", file_type_of(options.dtype));

    const std::vector<NamedFloats> divisors = rope_divisors(config);
    for (const auto& [name, values] : divisors)
        metadata.tensor(name, std::array{std::ssize(values)}, GgmlType::kF32);
    std::vector<FileTensor> tensors;
    for (const PlacedWeight& placed : all_weights(config)) {
        tensors.push_back(file_tensor(config, family, placed, options.dtype));
        if (placed.weight.expert > 0) continue;  // one tensor holds all experts
        std::vector<std::int64_t> extents = shape_of(placed.weight);
        std::reverse(extents.begin(), extents.end());
        if (is_expert(placed.weight.role)) extents.push_back(config.experts);
        metadata.tensor(gguf_name(family, placed.weight.role, placed.layer), extents,
                        ggml_type_of(tensors.back().dtype));
    }

    ResultFile pending(file);
    if (!pending.path()) {
        throw SystemError(ExitCode::kCannotCreate,
                          fmt::format("cannot write {}: a merged model is read back before it is "
                                      "put in its place. Expected a file, found a device or a pipe",
                                      file.string()));
    }
    const std::string text = metadata.bytes();
    write_padded(pending, std::as_bytes(std::span(text)));
    for (const auto& [name, values] : divisors)
        write_padded(pending, std::as_bytes(std::span(values)));
    WeightStream stream(weights, options);
    for (const FileTensor& tensor : tensors) {
        stream.write(tensor.placed.weight, tensor.dtype, tensor.change, pending);
        const WeightSpec& weight = tensor.placed.weight;
        const bool expert = is_expert(weight.role);
        if (expert && weight.expert + 1 < config.experts) continue;
        write_padding(pending, static_cast<std::size_t>(weight.count()) * bytes_of(tensor.dtype) *
                                   static_cast<std::size_t>(expert ? config.experts : 1));
    }
    pending.finish();
    check_readable(*pending.path(), config);
    pending.commit();
}

}  // namespace qshard
