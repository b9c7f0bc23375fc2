#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/operands.h"
#include "backend/cuda/sizes.h"
#include "backend/cuda/tiles.h"

/// Attention: which kernels, and over which tiles.
namespace qshard::cuda {
namespace {

AttentionCall call_of(const AttentionShape& shape, Tensor q, Tensor k, Tensor v) {
    check(q.cols() == shape.heads * shape.head_width &&
              k.cols() == shape.kv_heads * shape.head_width && v.count() == k.count() &&
              shape.head_width <= 256 && shape.heads % shape.kv_heads == 0,
          "attention operands fit");
    check(k.dtype() == q.dtype() && v.dtype() == q.dtype(), "attention has one dtype");
    AttentionCall call{};
    call.heads = shape.heads;
    call.kv_heads = shape.kv_heads;
    call.width = shape.head_width;
    call.scale = shape.scale;
    call.softcap = shape.softcap;
    call.window = shape.window;
    call.q = q.data();
    call.k = k.data();
    call.v = v.data();
    call.is_bf16 = is_bf16(q);
    return call;
}

}  // namespace

void CudaBackend::attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                            Tensor lse) {
    AttentionCall call = call_of(shape, q, k, v);
    check(out.count() == q.count() && out.dtype() == q.dtype() &&
              (lse.empty() || lse.count() == q.rows() * shape.heads),
          "attention operands fit");
    call.out = out.data();
    call.lse = lse.empty() ? nullptr : lse.as<float>();
    const bool fast = call.is_bf16 && tensor_cores_ && tensor_core_width(call.width);
    const std::vector<QueryTile> tiles =
        query_tiles(shape.sequences, fast ? forward_tile(call.width) : kPlainTile);
    const auto count = static_cast<std::int64_t>(tiles.size());
    const QueryTile* list = staging_->put(std::span(tiles));
    (fast ? attention_forward : plain_attention_forward)(call, list, count, stream_);
    require_launched("attention");
}

void CudaBackend::attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                                     Tensor out, Tensor lse, Tensor dout, Tensor dq, Tensor dk,
                                     Tensor dv) {
    AttentionCall call = call_of(shape, q, k, v);
    const std::int64_t pairs = q.rows() * shape.heads;
    check(out.count() == q.count() && dout.count() == q.count() && dq.count() == q.count() &&
              dk.count() == k.count() && dv.count() == k.count() && lse.count() == pairs,
          "attention_backward operands fit");
    check(static_cast<std::size_t>(pairs) * sizeof(float) <= kResultBytes,
          "attention's deltas fit the workspace");
    call.lse = lse.as<float>();
    call.dout = dout.data();
    call.dout_is_bf16 = is_bf16(dout);
    call.delta = reinterpret_cast<float*>(results_);
    call.dq = dq.as<float>();
    call.dk = dk.as<float>();
    call.dv = dv.as<float>();
    cuda::row_dots(in_of(out), in_of(dout), pairs, call.width, call.delta, stream_);
    const bool fast =
        call.is_bf16 && call.dout_is_bf16 && tensor_cores_ && tensor_core_width(call.width);
    const std::vector<QueryTile> queries =
        query_tiles(shape.sequences, fast ? query_tile(call.width) : kPlainTile);
    const QueryTile* query_list = staging_->put(std::span(queries));
    (fast ? attention_dq : plain_attention_dq)(call, query_list,
                                               static_cast<std::int64_t>(queries.size()), stream_);
    const std::vector<KeyTile> keys =
        key_tiles(shape.sequences, fast ? key_tile(call.width) : kPlainTile);
    const KeyTile* key_list = staging_->put(std::span(keys));
    (fast ? attention_dkdv : plain_attention_dkdv)(call, key_list,
                                                   static_cast<std::int64_t>(keys.size()), stream_);
    require_launched("attention_backward");
}

}  // namespace qshard::cuda
