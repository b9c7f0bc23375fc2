#include "io/formats/hf_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "io/formats/gguf_dequant.h"

namespace qshard {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // elements compared at a time

std::optional<GgmlType> plain_type(SafetensorsType type) {
    if (type == SafetensorsType::kBF16) return GgmlType::kBF16;
    if (type == SafetensorsType::kF16) return GgmlType::kF16;
    if (type == SafetensorsType::kF32) return GgmlType::kF32;
    return std::nullopt;
}

/// Elements [first, first + out.size()), not noted in a log: the values are compared, not kept.
void peek(const TensorInFile& from, GgmlType type, std::int64_t first, std::span<float> out) {
    const GgmlTraits& traits = traits_of(type);
    std::vector<std::byte> raw(out.size() * traits.block_bytes);
    from.file->file().peek(
        from.tensor->offset + static_cast<std::uint64_t>(first) * traits.block_bytes, raw.data(),
        raw.size());
    traits.dequantize(raw.data(), std::ssize(out), out.data());
}

bool equal_values(const TensorInFile& a, const TensorInFile& b) {
    const auto type_a = plain_type(a.tensor->type), type_b = plain_type(b.tensor->type);
    if (!type_a || !type_b || a.tensor->shape != b.tensor->shape) return false;
    const std::int64_t count = a.tensor->count();
    std::vector<float> left, right;
    for (std::int64_t first = 0; first < count; first += kChunk) {
        const auto length = static_cast<std::size_t>(std::min(kChunk, count - first));
        left.resize(length);
        right.resize(length);
        peek(a, *type_a, first, left);
        peek(b, *type_b, first, right);
        if (std::memcmp(left.data(), right.data(), length * sizeof(float)) != 0) return false;
    }
    return true;
}

[[noreturn]] void refuse_missing(const HeadFacts& facts) {
    const bool head = facts.head.tensor == nullptr;
    if (facts.embedding.tensor == nullptr && head) {
        throw UserError(
            fmt::format("{}: the tensor \"{}\" is missing", facts.origin, facts.embedding_name));
    }
    throw UserError(fmt::format(
        "{}: the tensor \"{}\" is missing, and config.json does not say that it is the same as "
        "\"{}\" (tie_word_embeddings is false or absent)\ntransformers would start with random "
        "values there. If the model was trained with a tied head, set \"tie_word_embeddings\": "
        "true "
        "in config.json; else get the complete files.",
        facts.origin, head ? facts.head_name : facts.embedding_name,
        head ? facts.embedding_name : facts.head_name));
}

}  // namespace

HeadOfFiles head_of_files(const HeadFacts& facts) {
    HeadOfFiles result;
    const bool head = facts.head.tensor != nullptr, embedding = facts.embedding.tensor != nullptr;
    if (!head || !embedding) {
        if ((!head && !embedding) || !(facts.tied_in_config || facts.tied_in_metadata))
            refuse_missing(facts);
        result.tied = true;
        result.stored_as_head = head;
        return result;
    }
    if (!facts.tied_in_config) return result;
    result.tied =
        facts.tied_in_store ? *facts.tied_in_store : equal_values(facts.head, facts.embedding);
    if (!result.tied) {
        result.note = fmt::format(
            "{}: config.json says tie_word_embeddings, but \"{}\" has other values than \"{}\": "
            "the file's own head is used, as transformers 5 does; set tie_word_embeddings to false "
            "in config.json",
            facts.origin, facts.head_name, facts.embedding_name);
    }
    return result;
}

}  // namespace qshard
