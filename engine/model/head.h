#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "model/norm.h"
#include "spec/adapter.h"
#include "spec/layout.h"

/// Final norm, output embedding and per-token log-probabilities, in chunks of rows: the logits of a
/// slot never exist at once, and rows without a target never reach the head.
namespace qshard {

struct HeadPacks {
    Norm final_norm;
    PackedPair weight;  ///< output embedding [V, C]
};

/// Rows whose logits are held at a time: fp32 logits within the backend's logits_bytes(), from 3 of
/// its tile_rows() to 86 of them for each 32 MiB, in whole ones.
std::int64_t head_chunk_rows(const Backend& backend, const ModelConfig& config);

/// Of prepare_head().
std::size_t head_pack_bytes(const Backend& backend, const ModelConfig& config, DType compute,
                            bool backward);
/// What `adapter` (may be null) trains of it is taken from its flat vector instead of the unit.
HeadPacks prepare_head(Backend& backend, const ModelConfig& config, const UnitLayout& unit,
                       const std::byte* bytes, const AdapterLayout* adapter, const float* flat,
                       DType compute, bool backward, std::byte* destination);

/// Bytes of the memory that Head works in, for up to `rows` rows with a target.
std::size_t head_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows,
                               DType compute, bool backward);

/// Where the gradients of what is trained of a head go; empty where it is not.
struct HeadGradient {
    Tensor weight;     ///< fp32 [V, C]
    Tensor norm_bias;  ///< fp32 [C]
    Tensor ones;       ///< fp32 [rows of the plan, 1]; read for norm_bias
};

class Head {
  public:
    Head(Backend& backend, const ModelConfig& config, DType compute)
        : backend_(backend), config_(config), compute_(compute) {}

    /// Log-probabilities (host) of targets[i] at row rows[i] of x (fp32 [N, C], the last block's
    /// output). With dlogprob (host, as long), dx (fp32 [N, C]) becomes the derivative of the loss
    /// by x, where rows not listed are zero, and `gradient` is overwritten. Without rows nothing is
    /// written: what to do with dx and gradient then only the caller can tell.
    void run(const HeadPacks& packs, Tensor x, std::span<const std::int32_t> rows,
             std::span<const std::int32_t> targets, std::span<const float> dlogprob,
             std::span<float> logprob, Tensor dx, const HeadGradient& gradient, std::byte* scratch);

    /// Logits (after scale and soft cap) of the rows listed: fp32 [rows, V] on the backend, inside
    /// scratch; at most head_chunk_rows() rows.
    Tensor logits(const HeadPacks& packs, Tensor x, std::span<const std::int32_t> rows,
                  std::byte* scratch);

  private:
    Backend& backend_;
    const ModelConfig& config_;
    DType compute_;
};

}  // namespace qshard
