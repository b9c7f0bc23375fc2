#include "io/peft/embedding_copies.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "io/formats/gguf_dequant.h"
#include "spec/adapter.h"

namespace qshard {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 18;  // elements compared at a time

/// The weight of the base that a key of the adapter is a copy of.
const WeightSpec* weight_of(const std::vector<WeightSpec>& weights, const std::string& key) {
    const auto found = std::ranges::find_if(weights, [&](const WeightSpec& weight) {
        return unwrapped_name(key).ends_with("." + weight.name);
    });
    return found == weights.end() ? nullptr : &*found;
}

/// Values of the file, which must be of a plain dtype.
void read_copy(const SafetensorsFile& file, const std::string& key, const SafetensorsTensor& copy,
               std::int64_t first, std::span<float> out) {
    const bool f32 = copy.type == SafetensorsType::kF32, bf16 = copy.type == SafetensorsType::kBF16;
    if (!f32 && !bf16 && copy.type != SafetensorsType::kF16) {
        throw UserError(fmt::format("{}: tensor \"{}\" is {}, expected F32, BF16 or F16",
                                    file.file().name(), key, name_of(copy.type)));
    }
    const GgmlTraits& traits = traits_of(f32    ? GgmlType::kF32
                                         : bf16 ? GgmlType::kBF16
                                                : GgmlType::kF16);
    std::vector<std::byte> raw(out.size() * traits.block_bytes);
    file.file().read(copy.offset + static_cast<std::uint64_t>(first) * traits.block_bytes,
                     raw.data(), raw.size());
    traits.dequantize(raw.data(), std::ssize(out), out.data());
}

/// The largest difference between the copy and the base as it is, or as bf16 or fp16 has it,
/// whichever is nearest.
float difference(const SafetensorsFile& file, const std::string& key, const SafetensorsTensor& copy,
                 const WeightReader& base, const WeightSpec& weight) {
    std::array<float, 3> worst{};
    std::vector<float> theirs, ours;
    for (std::int64_t first = 0; first < weight.count(); first += kChunk) {
        const auto length = static_cast<std::size_t>(std::min(kChunk, weight.count() - first));
        theirs.resize(length);
        ours.resize(length);
        read_copy(file, key, copy, first, theirs);
        base.read(weight, first, ours);
        for (std::size_t i = 0; i < length; ++i) {
            const std::array<float, 3> loaded = {ours[i], to_float(to_bf16(ours[i])),
                                                 half_to_float(float_to_half(ours[i]))};
            for (std::size_t k = 0; k < loaded.size(); ++k) {
                if (!(theirs[i] == loaded[k]))
                    worst[k] = std::max({worst[k], std::abs(theirs[i] - loaded[k]), 1e-30f});
            }
        }
    }
    return std::ranges::min(worst);
}

}  // namespace

bool is_embedding_name(std::string_view key) {
    return key.ends_with("embed_tokens.weight") || key.ends_with(".wte.weight") ||
           key.ends_with("lm_head.weight");
}

void check_embedding_copies(const EmbeddingCopies& copies, const WeightReader& base) {
    if (copies.file == nullptr) return;
    const ModelConfig& config = base.config();
    ModelConfig untied = config;
    untied.tied_head = false;
    const std::vector<WeightSpec> names = {embedding_weights(untied).front(),
                                           head_weights(untied).front()};
    const std::string& file = copies.file->file().name();
    for (const auto& [key, copy] : copies.tensors) {
        const WeightSpec* named = weight_of(names, key);
        if (named == nullptr) {
            throw UserError(
                fmt::format("{}: tensor \"{}\" is an embedding that the base has not", file, key));
        }
        const std::vector<std::int64_t> expected = {named->rows, named->cols};
        if (copy.shape.size() == 2 && copy.shape[1] == named->cols &&
            copy.shape[0] != named->rows) {
            throw UserError(fmt::format(
                "{}: \"{}\" has {} rows, the base's embedding has {}: resized embeddings. The "
                "adapter was trained after resize_token_embeddings({}) and belongs to that base.\n"
                "Give the base with the resized embedding (save it and its tokenizer from "
                "transformers after resizing), or merge adapter and base in PEFT.",
                file, key, copy.shape[0], named->rows, copy.shape[0]));
        }
        if (copy.shape != expected) {
            throw UserError(fmt::format(
                "{} was made for another model: its \"{}\" is [{}], this model needs [{}]", file,
                key, fmt::join(copy.shape, ", "), fmt::join(expected, ", ")));
        }
        const WeightSpec& weight =
            config.tied_head ? names.front() : *named;  // a tied head is the embedding
        const float worst = difference(*copies.file, key, copy, base, weight);
        if (worst == 0) continue;
        throw UserError(fmt::format(
            "{}: \"{}\" has other values than the base (by up to {:.3g}): the adapter was trained "
            "with an embedding or head of its own, and adapter_config.json does not say so\nAdd "
            "its "
            "module (embed_tokens, lm_head) to modules_to_save of adapter_config.json to compute "
            "with these values as PEFT does, or merge adapter and base in PEFT.",
            file, key, worst));
    }
}

}  // namespace qshard
