#include "model/head.h"

#include <algorithm>
#include <vector>

#include "model/trained_weight.h"
#include "tensor/arena.h"

namespace qshard {
namespace {

/// Memory of Head: rows of x, their normed form, their derivative, one chunk of logits, and numbers
/// of each row.
struct Work {
    Tensor x, h, dh, logits, dlogprob, logprob;
};

template <class Take>
void for_each_tensor(Work& work, const Backend& backend, const ModelConfig& c, std::int64_t rows,
                     DType compute, bool backward, Take&& take) {
    const std::int64_t chunk = std::min(rows, head_chunk_rows(backend, c));
    take(work.x, DType::kF32, rows, c.width);
    take(work.h, compute, rows, c.width);
    if (backward) take(work.dh, DType::kF32, rows, c.width);
    take(work.logits, DType::kF32, chunk, c.vocabulary);
    take(work.dlogprob, DType::kF32, rows, 1);
    take(work.logprob, DType::kF32, rows, 1);
}

Work make_work(const Backend& backend, const ModelConfig& config, std::int64_t rows, DType compute,
               bool backward, std::byte* memory) {
    Work work;
    Scratch scratch(memory, head_scratch_bytes(backend, config, rows, compute, backward));
    for_each_tensor(work, backend, config, rows, compute, backward,
                    [&](Tensor& tensor, DType dtype, std::int64_t count, std::int64_t cols) {
                        tensor = scratch.take(dtype, {count, cols});
                    });
    return work;
}

}  // namespace

std::int64_t head_chunk_rows(const Backend& backend, const ModelConfig& config) {
    const auto bytes = static_cast<std::int64_t>(backend.logits_bytes());
    const std::int64_t fitting = bytes / (config.vocabulary * 4), tile = backend.tile_rows();
    return std::clamp<std::int64_t>(fitting / tile * tile, 3 * tile, 86 * tile * (bytes >> 25));
}

std::size_t head_pack_bytes(const Backend& backend, const ModelConfig& c, DType compute,
                            bool backward) {
    const std::size_t vectors = c.norm == NormKind::kLayer ? 2 : 1;
    return vectors * Scratch::aligned(static_cast<std::size_t>(c.width) * sizeof(float)) +
           Scratch::aligned(backend.packed_alone_bytes(c.vocabulary, c.width, compute, backward));
}

HeadPacks prepare_head(Backend& backend, const ModelConfig& config, const UnitLayout& unit,
                       const std::byte* bytes, const AdapterLayout* adapter, const float* flat,
                       DType compute, bool backward, std::byte* destination) {
    HeadPacks packs;
    auto copy = [&](Role role) {
        const Field* field = unit.find(role);
        if (field == nullptr) return Tensor();
        const Tensor vector(destination, DType::kF32, {config.width});
        const Tensor own = trained_in_head(adapter, role, flat);
        backend.copy(own.empty() ? view_of(*field, bytes).plain : own, vector);
        destination += Scratch::aligned(vector.bytes());
        return vector;
    };
    packs.final_norm.gain = copy(Role::kFinalNorm);
    packs.final_norm.bias = copy(Role::kFinalNormBias);
    WeightView table = view_of(unit.at(config.tied_head ? Role::kEmbed : Role::kHead), bytes);
    const Tensor own = trained_in_head(adapter, Role::kHead, flat);
    if (!own.empty()) table.plain = own;
    packs.weight = backend.pack_alone(table, compute, backward, destination);
    return packs;
}

std::size_t head_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows,
                               DType compute, bool backward) {
    Work work;
    std::size_t bytes = 0;
    for_each_tensor(
        work, backend, config, rows, compute, backward,
        [&](Tensor&, DType dtype, std::int64_t count, std::int64_t cols) {
            bytes += Scratch::aligned(static_cast<std::size_t>(count * cols) * bytes_of(dtype));
        });
    return bytes;
}

void Head::run(const HeadPacks& packs, Tensor x, std::span<const std::int32_t> rows,
               std::span<const std::int32_t> targets, std::span<const float> dlogprob,
               std::span<float> logprob, Tensor dx, const HeadGradient& gradient,
               std::byte* scratch) {
    const auto count = static_cast<std::int64_t>(rows.size());
    const bool backward = !dlogprob.empty();
    if (count == 0) return;
    Work work = make_work(backend_, config_, count, compute_, backward, scratch);
    if (backward) backend_.upload(work.dlogprob.data(), dlogprob.data(), work.dlogprob.bytes());
    backend_.gather_rows(x, rows, work.x);
    packs.final_norm.forward(backend_, config_, work.x, work.h);
    const std::int64_t chunk = work.logits.rows();
    for (std::int64_t begin = 0; begin < count; begin += chunk) {
        const std::int64_t m = std::min(chunk, count - begin);
        const auto first = static_cast<std::size_t>(begin), length = static_cast<std::size_t>(m);
        const Tensor logits = work.logits.row_range(0, m);
        const Tensor logprobs = work.logprob.row_range(begin, m);
        const GemmTerm forward{work.h.row_range(begin, m), packs.weight.forward};
        backend_.gemm({&forward, 1}, Tensor(), logits, false);
        const Tensor derivative = backward ? work.dlogprob.row_range(begin, m) : Tensor();
        backend_.log_softmax(logits, targets.subspan(first, length), config_.logit_scale,
                             config_.logit_softcap, derivative, logprobs);
        if (backward) {
            const GemmTerm back{logits, packs.weight.backward};
            backend_.gemm({&back, 1}, Tensor(), work.dh.row_range(begin, m), false);
            if (!gradient.weight.empty()) {
                backend_.gemm_rows(logits, forward.a, 1.0f, compute_, gradient.weight, false,
                                   begin > 0);
            }
        }
    }
    if (backward) {
        if (!gradient.norm_bias.empty()) {
            backend_.gemm_rows(gradient.ones.row_range(0, count), work.dh, 1.0f, DType::kF32,
                               gradient.norm_bias.reshaped({1, config_.width}), false, false);
        }
        packs.final_norm.backward(backend_, config_, work.x, work.dh, work.dh, false);
        backend_.scatter_rows(work.dh, rows, dx);
    }
    backend_.download(logprob.data(), work.logprob.data(), work.logprob.bytes());
}

Tensor Head::logits(const HeadPacks& packs, Tensor x, std::span<const std::int32_t> rows,
                    std::byte* scratch) {
    const auto count = static_cast<std::int64_t>(rows.size());
    check(count <= head_chunk_rows(backend_, config_),
          "logits are asked for one chunk of rows at a time");
    Work work = make_work(backend_, config_, count, compute_, false, scratch);
    backend_.gather_rows(x, rows, work.x);
    packs.final_norm.forward(backend_, config_, work.x, work.h);
    const GemmTerm forward{work.h, packs.weight.forward};
    backend_.gemm({&forward, 1}, Tensor(), work.logits, false);
    const std::vector<std::int32_t> targets(rows.size(), 0);
    backend_.log_softmax(work.logits, targets, config_.logit_scale, config_.logit_softcap, Tensor(),
                         work.logprob);
    return work.logits;
}

}  // namespace qshard
