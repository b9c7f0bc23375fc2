#include "backend/cpu/cpu_backend.h"

/// Attention's tasks: forward a block of queries of one key/value head, backward a whole head.
namespace qshard::cpu {
namespace {

void check_shape(const AttentionShape& s, const Tensor& q, const Tensor& k, const Tensor& v) {
    check(s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.heads / s.kv_heads <= kQueryColumns,
          "attention's heads are in equal groups of at most 128");
    check(s.head_width > 0 && s.head_width <= kMaxHeadWidth, "a head is at most 256 wide");
    check(q.cols() == s.heads * s.head_width && k.cols() == s.kv_heads * s.head_width &&
              v.count() == k.count(),
          "attention operands fit");
    check(q.dtype() == k.dtype() && q.dtype() == v.dtype(), "attention has one dtype");
    for (const AttentionSequence& x : s.sequences) {
        check(x.q_begin >= 0 && x.q_begin + x.q_count <= q.rows() && x.k_begin >= 0 &&
                  x.k_begin + x.k_count <= k.rows() && x.q_count <= x.k_count,
              "an attention sequence lies in its tensors");
    }
}

AttentionCall call_of(const AttentionShape& s, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& out, const Tensor& lse) {
    AttentionCall call{};
    call.heads = s.heads;
    call.kv_heads = s.kv_heads;
    call.width = s.head_width;
    call.scale = s.scale;
    call.softcap = s.softcap;
    call.window = s.window;
    call.q = in_of(q);
    call.k = in_of(k);
    call.v = in_of(v);
    call.out = {out.data(), out.dtype() == DType::kBF16};
    call.lse = lse.empty() ? nullptr : lse.as<float>();
    return call;
}

}  // namespace

const GemmKernel& CpuBackend::attention_kernel(const Tensor& q) const {
    return q.dtype() == DType::kBF16 && kernels_.bf16_attention ? kernels_.bf16 : kernels_.f32;
}

void CpuBackend::attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, Tensor out,
                           Tensor lse) {
    check_shape(shape, q, k, v);
    check(out.count() == q.count() && out.dtype() == q.dtype() &&
              (lse.empty() || lse.count() == q.rows() * shape.heads),
          "attention's results fit");
    const AttentionCall call = call_of(shape, q, k, v, out, lse);
    const GemmKernel& gemm = attention_kernel(q);
    const std::int64_t block = kQueryColumns / (shape.heads / shape.kv_heads);
    std::int64_t blocks = 0;
    for (const AttentionSequence& x : shape.sequences) blocks += divide_up(x.q_count, block);
    pool_.run(blocks * shape.kv_heads, [&](std::int64_t task, int thread) {
        // Last blocks first: they see the most keys.
        std::int64_t at = blocks - 1 - task / shape.kv_heads;
        for (const AttentionSequence& x : shape.sequences) {
            const std::int64_t own = divide_up(x.q_count, block);
            if (at < own) {
                kernels_.attention(gemm, call, x, task % shape.kv_heads, at * block,
                                   std::min(block, x.q_count - at * block), scratch(thread));
                return;
            }
            at -= own;
        }
    });
}

void CpuBackend::attention_backward(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                                    Tensor out, Tensor lse, Tensor dout, Tensor dq, Tensor dk,
                                    Tensor dv) {
    check_shape(shape, q, k, v);
    check(out.count() == q.count() && dout.count() == q.count() && dq.count() == q.count() &&
              dk.count() == k.count() && dv.count() == v.count() &&
              lse.count() == q.rows() * shape.heads,
          "attention_backward operands fit");
    for (const AttentionSequence& x : shape.sequences) {
        check(x.q_count == x.k_count, "attention_backward sees whole sequences");
    }
    AttentionCall call = call_of(shape, q, k, v, out, lse);
    call.dout = in_of(dout);
    call.dq = dq.as<float>();
    call.dk = dk.as<float>();
    call.dv = dv.as<float>();
    const GemmKernel& gemm = attention_kernel(q);
    const auto sequences = static_cast<std::int64_t>(shape.sequences.size());
    pool_.run(sequences * shape.kv_heads, [&](std::int64_t task, int thread) {
        const auto& sequence = shape.sequences[static_cast<std::size_t>(task / shape.kv_heads)];
        kernels_.attention_backward(gemm, call, sequence, task % shape.kv_heads, scratch(thread));
    });
}

}  // namespace qshard::cpu
