#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "files.h"
#include "io/formats/gguf.h"

namespace qshard::testing {

inline std::string gguf_string(const std::string& text) {
    return bytes_of_value<std::uint64_t>(text.size()) + text;
}

/// Writes small GGUF files, sound or (by its public parts) broken ones.
class GgufBuilder {
  public:
    std::uint32_t version = 3;
    std::uint64_t alignment = 32;
    std::string keys, infos, data;
    std::uint64_t key_count = 0, tensor_count = 0;

    /// `value` is the value's type number and bytes.
    GgufBuilder& raw(const std::string& key, std::uint32_t type, const std::string& value) {
        keys += gguf_string(key) + bytes_of_value(type) + value;
        ++key_count;
        return *this;
    }
    GgufBuilder& text(const std::string& key, const std::string& value) {
        return raw(key, 8, gguf_string(value));
    }
    GgufBuilder& u32(const std::string& key, std::uint32_t value) {
        return raw(key, 4, bytes_of_value(value));
    }
    GgufBuilder& f32(const std::string& key, float value) {
        return raw(key, 6, bytes_of_value(value));
    }

    GgufBuilder& tensor(const std::string& name, const std::vector<std::int64_t>& extents,
                        std::uint32_t type, const std::string& content) {
        data.resize((data.size() + alignment - 1) / alignment * alignment, '\0');
        info(name, extents, type, data.size());
        data += content;
        return *this;
    }
    GgufBuilder& info(const std::string& name, const std::vector<std::int64_t>& extents,
                      std::uint32_t type, std::uint64_t offset) {
        infos += gguf_string(name) + bytes_of_value(static_cast<std::uint32_t>(extents.size()));
        for (std::int64_t extent : extents) infos += bytes_of_value(extent);
        infos += bytes_of_value(type) + bytes_of_value(offset);
        ++tensor_count;
        return *this;
    }
    /// F32 tensor of the values 0, 1, 2, ... plus `base`.
    GgufBuilder& ramp(const std::string& name, const std::vector<std::int64_t>& extents,
                      float base = 0) {
        std::int64_t count = 1;
        for (std::int64_t extent : extents) count *= extent;
        std::string content;
        for (std::int64_t i = 0; i < count; ++i)
            content += bytes_of_value(base + static_cast<float>(i));
        return tensor(name, extents, 0, content);
    }

    std::string bytes() const {
        std::string all = "GGUF" + bytes_of_value(version) + bytes_of_value(tensor_count) +
                          bytes_of_value(key_count) + keys + infos;
        all.resize((all.size() + alignment - 1) / alignment * alignment, '\0');
        return all + data;
    }
};

/// A llama with 1 layer, C = 64, H = 2, K = 1, D = 32, F = 32, V = 5; `type` of the linears: 0
/// (F32) or 3 (Q4_1).
inline GgufBuilder tiny_llama(std::uint32_t type = 0) {
    GgufBuilder b;
    b.text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 128);
    b.u32("llama.embedding_length", 64).u32("llama.feed_forward_length", 32);
    b.u32("llama.attention.head_count", 2).u32("llama.attention.head_count_kv", 1);
    b.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).f32("llama.rope.freq_base", 50000.0f);
    b.u32("tokenizer.ggml.eos_token_id", 2);
    b.ramp("token_embd.weight", {64, 5}).ramp("output_norm.weight", {64}, 0.5f);
    Lcg random{7};
    const auto linear = [&](const std::string& name, std::int64_t cols, std::int64_t rows) {
        if (type == 0) {
            b.ramp("blk.0." + name, {cols, rows});
            return;
        }
        std::string blocks;
        for (std::int64_t i = 0; type == 30 && i < cols * rows; ++i)  // BF16
            blocks += bytes_of_value(qshard::to_bf16(0.5f * static_cast<float>(i)).bits);
        for (std::int64_t i = 0; type != 30 && i < cols * rows / 32; ++i) {
            blocks += bytes_of_value<std::uint16_t>(0x2c00) + bytes_of_value<std::uint16_t>(0xb400);
            for (int j = 0; j < 16; ++j) blocks += static_cast<char>(random.next() >> 24);
        }
        b.tensor("blk.0." + name, {cols, rows}, type, blocks);
    };
    linear("attn_q.weight", 64, 64);
    linear("attn_k.weight", 64, 32);
    linear("attn_v.weight", 64, 32);
    linear("attn_output.weight", 64, 64);
    linear("ffn_gate.weight", 64, 32);
    linear("ffn_up.weight", 64, 32);
    linear("ffn_down.weight", 32, 64);
    b.ramp("blk.0.attn_norm.weight", {64}).ramp("blk.0.ffn_norm.weight", {64});
    return b;
}

/// The file's number and count as llama-gguf-split notes them.
inline void mark_split(GgufBuilder& part, int number, int count, int tensors) {
    part.raw("split.no", 2, bytes_of_value(static_cast<std::uint16_t>(number - 1)));
    part.raw("split.count", 2, bytes_of_value(static_cast<std::uint16_t>(count)));
    part.raw("split.tensors.count", 5, bytes_of_value<std::int32_t>(tensors));
}

/// A model in `count` files: metadata in the first, as many tensors as it takes in each.
inline std::vector<GgufBuilder> split_gguf(const GgufBuilder& whole, int count) {
    const qshard::GgufFile file(memory_file(whole.bytes()));
    std::vector<GgufBuilder> parts(static_cast<std::size_t>(count));
    parts[0].keys = whole.keys;
    parts[0].key_count = whole.key_count;
    const auto tensors = static_cast<int>(file.tensors().size());
    for (int i = 0; i < count; ++i)
        mark_split(parts[static_cast<std::size_t>(i)], i + 1, count, tensors);
    std::size_t next = 0;
    for (const auto& [name, tensor] : file.tensors()) {
        std::string content(tensor.bytes, '\0');
        file.read(tensor, 0, content.data(), content.size());
        parts[next++ * parts.size() / file.tensors().size()].tensor(
            name, tensor.extents, static_cast<std::uint32_t>(tensor.type), content);
    }
    return parts;
}

}  // namespace qshard::testing
