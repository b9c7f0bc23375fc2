#include "model/experts.h"

#include <algorithm>
#include <vector>

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
    /// Where the assignments of each slot begin among them: tokens ascend.
    std::vector<std::int64_t> slots(std::span<const std::int64_t> slot_begin) const {
        std::vector<std::int64_t> begins;
        for (const std::int64_t token : slot_begin)
            begins.push_back(std::ranges::lower_bound(rows, token) - rows.begin());
        return begins;
    }
};

/// Products with a linear and the factors of its adapter, where it has one; u = x A^T and du are
/// those of the rows at hand.
class Products {
  public:
    Products(Backend& backend, const LayerGradient& gradient)
        : backend_(backend), gradient_(gradient) {}

    /// u = x A^T, unless the gate has made it for up.
    void down_project(const LinearPack& pack, const Tensor& x, const Tensor& u) {
        if (pack.target == nullptr || pack.a_forward.data == nullptr) return;
        const GemmTerm term{x, pack.a_forward};
        backend_.gemm({&term, 1}, Tensor(), u, false);
    }

    /// y = x W^T + u (scale B)^T, where u = x A^T unless the gate has made it for up.
    void forward(const LinearPack& pack, const Tensor& x, const Tensor& u, const Tensor& y) {
        const GemmTerm down{x, pack.a_forward};
        const GemmTerm terms[] = {{x, pack.forward}, {u, pack.b_forward}};
        const bool adapted = pack.target != nullptr;
        const GemmCall calls[] = {{{&down, 1}, Tensor(), u},
                                  {{terms, adapted ? 2U : 1U}, Tensor(), y}};
        const bool makes_u = adapted && pack.a_forward.data != nullptr;
        backend_.gemms(std::span(calls).subspan(makes_u ? 0 : 1));
    }

    /// dx = (or +=) dy W + du A with du = dy (scale B).
    void backward(const LinearPack& pack, const Tensor& dy, const Tensor& du, const Tensor& dx,
                  bool accumulate) {
        const GemmTerm up{dy, pack.b_backward};
        const GemmTerm terms[] = {{dy, pack.backward}, {du, pack.a_backward}};
        const bool adapted = pack.target != nullptr;
        const GemmCall calls[] = {{{&up, 1}, Tensor(), du},
                                  {{terms, adapted ? 2U : 1U}, Tensor(), dx, accumulate}};
        backend_.gemms(std::span(calls).subspan(adapted ? 0 : 1));
    }

    /// dx = d_gate W_gate + d_up W_up + du A.
    void backward(const ExpertPacks& expert, const Tensor& d_gate, const Tensor& d_up,
                  const Tensor& du, const Tensor& dx) {
        const GemmTerm ups[] = {{d_gate, expert.gate.b_backward}, {d_up, expert.up.b_backward}};
        const GemmTerm terms[] = {
            {d_gate, expert.gate.backward}, {d_up, expert.up.backward}, {du, expert.up.a_backward}};
        const bool adapted = expert.gate.target != nullptr;
        const GemmCall calls[] = {{ups, Tensor(), du}, {{terms, adapted ? 3U : 2U}, Tensor(), dx}};
        backend_.gemms(std::span(calls).subspan(adapted ? 0 : 1));
    }

    /// Of x and du, the rows of each slot from `slots` on.
    void gradient_of_a(const LinearPack& pack, const Tensor& x, const Tensor& du,
                       std::span<const std::int64_t> slots) {
        if (skips(pack)) return;
        const AdapterTarget& t = *pack.target;
        const Tensor da = at(t.a_of(pack.expert), t.r, t.in);
        backend_.gemm_rows_of_slots(du, x, slots, 1.0f, pack.backward.dtype, da, gradient_.stride,
                                    false);
    }
    void gradient_of_b(const LinearPack& pack, const Tensor& u, const Tensor& dy,
                       std::span<const std::int64_t> slots) {
        if (skips(pack)) return;
        const AdapterTarget& t = *pack.target;
        const Tensor db = at(t.b_of_row(pack.first_row), dy.cols(), t.r);
        backend_.gemm_rows_of_slots(u, dy, slots, t.scale, pack.backward.dtype, db,
                                    gradient_.stride, true);
    }

    /// Of an expert that no token of these slots went to.
    void no_gradient(const ExpertPacks& expert, std::size_t slots) {
        for (const LinearPack* pack : {&expert.gate, &expert.down}) {
            if (skips(*pack)) continue;
            const AdapterTarget& t = *pack->target;
            for (std::size_t s = 0; s < slots; ++s) {
                backend_.fill_zero(at(t.a_of(pack->expert), t.r, t.in, s));
                backend_.fill_zero(at(t.b_of_row(pack->expert * t.out), t.out, t.r, s));
            }
        }
    }

  private:
    bool skips(const LinearPack& pack) const {
        return pack.target == nullptr || gradient_.values == nullptr;
    }
    Tensor at(std::int64_t offset, std::int64_t rows, std::int64_t cols,
              std::size_t slot = 0) const {
        return {gradient_.at(offset, slot), DType::kF32, {rows, cols}};
    }

    Backend& backend_;
    const LayerGradient gradient_;
};

/// u of a linear's rows of all assignments, or nothing where it is not adapted.
Tensor u_of(const Tape& tape, const LinearPack& pack) {
    return pack.target == nullptr ? Tensor() : tape.u_of(*pack.target);
}
Tensor u_of(const Tape& tape, const LinearPack& pack, const Share& share) {
    return pack.target == nullptr ? Tensor() : share.of(tape.u_of(*pack.target));
}
/// As many rows and columns of a derivative's memory as it has here.
Tensor du_of(const Tensor& memory, const LinearPack& pack, std::int64_t rows) {
    if (pack.target == nullptr) return {};
    return {memory.data(), memory.dtype(), {rows, pack.target->r}};
}

}  // namespace

void experts_forward(Backend& backend, const ModelConfig& config, const BlockPacks& packs,
                     Tape& tape, Tensor out) {
    Products products(backend, {});
    products.forward(packs.router, tape.h2, u_of(tape, packs.router), tape.router);
    const Routing routing = route(config, on_host(backend, tape.router));
    for (std::size_t e = 0; e < packs.experts.size(); ++e) {
        const Share share(routing, e);
        if (share.count == 0) continue;
        const ExpertPacks& expert = packs.experts[e];
        const Tensor x = tape.expert_in.row_range(0, share.count);
        backend.gather_rows(tape.h2, share.rows, x);
        const Tensor u = u_of(tape, expert.gate, share);
        products.forward(expert.gate, x, u, share.of(tape.expert_gate));
        products.forward(expert.up, x, u, share.of(tape.expert_up));
        const Tensor activated = share.of(tape.expert_activated);
        backend.activate(config.activation, share.of(tape.expert_gate), share.of(tape.expert_up),
                         activated);
        const Tensor u_down = u_of(tape, expert.down, share);
        if (out.empty()) {
            products.down_project(expert.down, activated, u_down);
            continue;
        }
        const Tensor y = tape.expert_out.row_range(0, share.count);
        products.forward(expert.down, activated, u_down, y);
        backend.add_rows(y, share.rows, share.weights, out);
    }
}

void experts_backward(Backend& backend, const ModelConfig& config, const BlockPacks& packs,
                      Tape& tape, Tensor dy, const ExpertWork& work, const LayerGradient& gradient,
                      std::span<const std::int64_t> slot_begin, Tensor dh) {
    Products products(backend, gradient);
    const std::vector<float> logits = on_host(backend, tape.router);
    const Routing routing = route(config, logits);
    const std::vector<float> ones(routing.rows.size(), 1.0f);
    backend.fill_zero(dh);
    for (std::size_t e = 0; e < packs.experts.size(); ++e) {
        const Share share(routing, e);
        const ExpertPacks& expert = packs.experts[e];
        if (share.count == 0) {
            products.no_gradient(expert, slot_begin.size() - 1);
            continue;
        }
        const std::vector<std::int64_t> slots = share.slots(slot_begin);
        const Tensor rows = work.rows.row_range(0, share.count);
        const Tensor d_activated = work.d_activated.row_range(0, share.count);
        const Tensor gate = share.of(tape.expert_gate), up = share.of(tape.expert_up);
        backend.gather_rows(dy, share.rows, rows);
        const Tensor activated = share.of(tape.expert_activated);
        const Tensor du_down = du_of(work.du, expert.down, share.count);
        products.backward(expert.down, rows, du_down, d_activated, false);
        // The derivative by an expert's weight is dy . (activated W^T) = (dy W) . activated.
        backend.row_dots(d_activated, activated, share.of(work.dots));
        backend.scale_rows(d_activated, share.weights);
        if (expert.down.target != nullptr) {
            backend.scale_rows(du_down, share.weights);
            backend.scale_rows(rows, share.weights);
            products.gradient_of_a(expert.down, activated, du_down, slots);
            products.gradient_of_b(expert.down, u_of(tape, expert.down, share), rows, slots);
        }
        backend.activate_backward(config.activation, gate, up, d_activated, gate, up);
        const Tensor du = du_of(work.du, expert.gate, share.count);
        products.backward(expert, gate, up, du, rows);
        if (expert.gate.target != nullptr) {
            const Tensor x = tape.expert_in.row_range(0, share.count);
            backend.gather_rows(tape.h2, share.rows, x);
            products.gradient_of_a(expert.gate, x, du, slots);
            products.gradient_of_b(expert.gate, u_of(tape, expert.gate, share), gate, slots);
            products.gradient_of_b(expert.up, u_of(tape, expert.up, share), up, slots);
        }
        backend.add_rows(rows, share.rows, std::span(ones).first(share.rows.size()), dh);
    }
    const std::vector<float> d_router =
        route_backward(config, logits, routing, on_host(backend, work.dots));
    backend.upload(work.d_router.data(), d_router.data(), work.d_router.bytes());
    const Tensor du = du_of(work.du_router, packs.router, dh.rows());
    products.backward(packs.router, work.d_router, du, dh, true);
    products.gradient_of_a(packs.router, tape.h2, du, slot_begin);
    products.gradient_of_b(packs.router, u_of(tape, packs.router), work.d_router, slot_begin);
}

}  // namespace qshard
