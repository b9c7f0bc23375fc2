#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/block_packs.h"
#include "model/layer_gradient.h"
#include "model/rotary.h"
#include "model/tape.h"
#include "model/token_context.h"
#include "spec/adapter.h"

/// THE decoder block, forward and backward, for every family: what differs is in ModelConfig's
/// switches. Knows nothing of ranks, files or where weights come from.
namespace qshard {

/// Keys and values of earlier tokens of one layer: [rows, K*D] in the compute dtype.
struct KvCache {
    Tensor k, v;
};

/// Tables of the embedding unit, any dtype.
struct EmbeddingTables {
    Tensor tokens;       ///< [V, C]
    Tensor positions;    ///< [positions, C]; only with learned positions
    float scale = 1.0f;  ///< of the tokens' rows: the model's, rounded to the base's dtype (Gemma:
                         ///< sqrt(C) is 45.25 in a bf16 model, not 45.2548)
};

/// `trained` takes the place of the unit's table unless it is empty.
EmbeddingTables embedding_tables(const ModelConfig& config, const UnitLayout& unit,
                                 const std::byte* bytes, const Tensor& trained);

/// x[N, C] fp32 = embedding rows of the tokens, scaled, plus those of the positions where they are
/// learned. scratch: as x, not needed after.
void embed_tokens(Backend& backend, const EmbeddingTables& tables,
                  std::span<const std::int32_t> tokens, std::span<const std::int32_t> positions,
                  Tensor x, Tensor scratch);

/// dtable[V, C] fp32 = the derivative of the loss by a trained table, from dx, that by x. The row
/// of the model's padding token has none, as in torch's Embedding (GPT-2's knows no such token).
void embed_tokens_backward(Backend& backend, const ModelConfig& config, float scale,
                           std::span<const std::int32_t> tokens, Tensor dx, Tensor dtable);

class Decoder {
  public:
    Decoder(Backend& backend, const ModelConfig& config, Rotary rotary, DType compute)
        : backend_(backend), config_(config), rotary_(std::move(rotary)), compute_(compute) {}

    /// Chooses the rotary positions of a call before its first layer.
    const Rotary& rotary() const { return rotary_; }

    /// x_out = block(x_in); both fp32 [N, C], may not alias. Fills `tape`, made for N tokens. An
    /// empty x_out means that only the tape is wanted (recomputation): the last projection is left
    /// out if the tape does not need it. With a cache, k and v of the new tokens are appended where
    /// context.sequences says their keys end, and attention reads the cache.
    void forward(std::int64_t layer, const BlockPacks& packs, const TokenContext& context,
                 Tensor x_in, Tensor x_out, Tape& tape, const KvCache* cache = nullptr);

    /// dx (fp32 [N, C]) is the derivative of the loss by the block's output and becomes that by its
    /// input. Gradients of each slot overwrite `gradient`. Consumes the tape (gate and up are
    /// overwritten). `scratch` has backward_scratch_bytes().
    void backward(std::int64_t layer, const BlockPacks& packs, const TokenContext& context,
                  Tensor x_in, Tape& tape, Tensor dx, const LayerGradient& gradient,
                  std::byte* scratch);

    static std::size_t backward_scratch_bytes(const ModelConfig& config, AdapterNeeds adapter,
                                              std::int64_t tokens, DType compute);

    const ModelConfig& config() const { return config_; }
    DType compute() const { return compute_; }

  private:
    struct Backward;
    struct Output;
    void linears(std::initializer_list<Output> outputs, const TokenContext& context, Tensor x,
                 Tape& tape, bool accumulate);
    void down_project(const LinearPack& pack, const TokenContext& context, Tensor x, Tape& tape);
    Tensor scaled_part(const LinearPack& pack, const AdapterDropout& dropout, Tensor x, Tape& tape);
    void scaled_linear(const LinearPack& pack, const AdapterDropout& dropout, Tensor x, Tape& tape,
                       Tensor y, bool accumulate);
    void residual(const LinearPack& pack, const TokenContext& context, Tensor x, Tape& tape,
                  Tensor kept, const Norm& post_norm, Tensor x_out);
    void add_branch(Tape& tape, Tensor kept, const Norm& post_norm, Tensor x_out);
    void pre_norm(const Norm& norm, Tensor x, Tensor h);
    void through_norm(const BlockPacks& packs, Role norm, Tensor x, Tensor dx, Backward& b);
    void qk_norm(const BlockPacks& packs, Role role, Tensor raw, Tensor y);
    void experts(const BlockPacks& packs, Tape& tape, Tensor x_out);
    void mlp_backward(const BlockPacks& packs, Tape& tape, Tensor dy, Backward& b);
    AttentionShape attention_shape(std::int64_t layer, const TokenContext& context) const;
    void rotate(std::int64_t layer, const TokenContext& context, Tensor q, Tensor k, bool inverse);

    Backend& backend_;
    const ModelConfig& config_;
    Rotary rotary_;
    DType compute_;
};

}  // namespace qshard
