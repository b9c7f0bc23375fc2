#include "model/experts.h"

#include "model/routing.h"

namespace qshard {
namespace {

std::vector<float> on_host(Backend& backend, const Tensor& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    backend.download(values.data(), tensor.data(), tensor.bytes());
    return values;
}

/// Assignments of one expert, and the rows of the tape that belong to them.
struct Share {
    std::int64_t begin = 0, count = 0;
    std::span<const std::int32_t> rows;
    std::span<const float> weights;

    Share(const Routing& routing, std::size_t expert)
        : begin(routing.begin[expert]), count(routing.begin[expert + 1] - begin) {
        const auto first = static_cast<std::size_t>(begin), n = static_cast<std::size_t>(count);
        rows = std::span(routing.rows).subspan(first, n);
        weights = std::span(routing.weights).subspan(first, n);
    }
    Tensor of(const Tensor& assignments) const { return assignments.row_range(begin, count); }
};

void multiply(Backend& backend, const Tensor& a, const Packed& b, const Tensor& c) {
    const GemmTerm term{a, b};
    backend.gemm({&term, 1}, Tensor(), c, false);
}

}  // namespace

void experts_forward(Backend& backend, const ModelConfig& config, const BlockPacks& packs,
                     Tape& tape, Tensor out) {
    multiply(backend, tape.h2, packs.router.forward, tape.router);
    const Routing routing = route(config, on_host(backend, tape.router));
    for (std::size_t e = 0; e < packs.experts.size(); ++e) {
        const Share share(routing, e);
        if (share.count == 0) continue;
        const ExpertPacks& expert = packs.experts[e];
        const Tensor x = tape.expert_in.row_range(0, share.count);
        backend.gather_rows(tape.h2, share.rows, x);
        multiply(backend, x, expert.gate.forward, share.of(tape.expert_gate));
        multiply(backend, x, expert.up.forward, share.of(tape.expert_up));
        const Tensor activated = share.of(tape.expert_activated);
        backend.activate(config.activation, share.of(tape.expert_gate), share.of(tape.expert_up),
                         activated);
        if (out.empty()) continue;
        const Tensor y = tape.expert_out.row_range(0, share.count);
        multiply(backend, activated, expert.down.forward, y);
        backend.add_rows(y, share.rows, share.weights, out);
    }
}

void experts_backward(Backend& backend, const ModelConfig& config, const BlockPacks& packs,
                      Tape& tape, Tensor dy, const ExpertWork& work, Tensor dh) {
    const std::vector<float> logits = on_host(backend, tape.router);
    const Routing routing = route(config, logits);
    const std::vector<float> ones(routing.rows.size(), 1.0f);
    backend.fill_zero(dh);
    for (std::size_t e = 0; e < packs.experts.size(); ++e) {
        const Share share(routing, e);
        if (share.count == 0) continue;
        const ExpertPacks& expert = packs.experts[e];
        const Tensor rows = work.rows.row_range(0, share.count);
        const Tensor d_activated = work.d_activated.row_range(0, share.count);
        const Tensor gate = share.of(tape.expert_gate), up = share.of(tape.expert_up);
        backend.gather_rows(dy, share.rows, rows);
        multiply(backend, rows, expert.down.backward, d_activated);
        // The derivative by an expert's weight is dy . (activated W^T) = (dy W) . activated.
        backend.row_dots(d_activated, share.of(tape.expert_activated), share.of(work.dots));
        backend.scale_rows(d_activated, share.weights);
        backend.activate_backward(config.activation, gate, up, d_activated, gate, up);
        const GemmTerm terms[] = {{gate, expert.gate.backward}, {up, expert.up.backward}};
        backend.gemm(terms, Tensor(), rows, false);
        backend.add_rows(rows, share.rows, std::span(ones).first(share.rows.size()), dh);
    }
    const std::vector<float> d_router =
        route_backward(config, logits, routing, on_host(backend, work.dots));
    backend.upload(work.d_router.data(), d_router.data(), work.d_router.bytes());
    const GemmTerm term{work.d_router, packs.router.backward};
    backend.gemm({&term, 1}, Tensor(), dh, true);
}

}  // namespace qshard
