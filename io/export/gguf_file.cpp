#include "io/export/gguf_file.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "io/export/same_model.h"
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

/// Divisors of the rotary frequencies where the formula is not the plain one of GGUF.
std::vector<float> rope_divisors(const ModelConfig& config) {
    if (config.ropes.empty()) return {};
    const RopeConfig& rope = config.ropes[0];
    if (rope.kind != RopeKind::kLlama3) return rope.frequency_divisors;
    RopeConfig plain = rope;
    plain.kind = RopeKind::kDefault;
    const std::vector<float> stretched = make_rope(rope, 1).inverse_frequencies;
    std::vector<float> divisors = make_rope(plain, 1).inverse_frequencies;
    for (std::size_t i = 0; i < divisors.size(); ++i) divisors[i] /= stretched[i];
    return divisors;
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
    if (config.experts > 0) {
        throw UserError(
            "writing mixtures of experts as GGUF is not supported yet; export --to merged-hf and "
            "convert that with llama.cpp's convert_hf_to_gguf.py");
    }
    metadata.u32("general.file_type", file_type_of(options.dtype));

    const std::vector<float> divisors = rope_divisors(config);
    if (!divisors.empty()) {
        metadata.tensor("rope_freqs.weight", std::array{std::ssize(divisors)}, GgmlType::kF32);
    }
    std::vector<FileTensor> tensors;
    for (const PlacedWeight& placed : all_weights(config)) {
        tensors.push_back(file_tensor(config, family, placed, options.dtype));
        std::vector<std::int64_t> extents = shape_of(placed.weight);
        std::reverse(extents.begin(), extents.end());
        metadata.tensor(gguf_name(family, placed.weight.role, placed.layer), extents,
                        ggml_type_of(tensors.back().dtype));
    }

    PendingFile pending(file);
    const std::string text = metadata.bytes();
    write_padded(pending, std::as_bytes(std::span(text)));
    if (!divisors.empty()) write_padded(pending, std::as_bytes(std::span(divisors)));
    WeightStream stream(weights, options);
    for (const FileTensor& tensor : tensors) {
        stream.write(tensor.placed.weight, tensor.dtype, tensor.change, pending);
        write_padding(pending, static_cast<std::size_t>(tensor.placed.weight.count()) *
                                   bytes_of(tensor.dtype));
    }
    pending.finish();
    check_readable(pending.path(), config);
    pending.rename();
    sync_folder(file.parent_path());
}

}  // namespace qshard
