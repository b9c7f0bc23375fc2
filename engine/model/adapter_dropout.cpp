#include "model/adapter_dropout.h"

#include <algorithm>

#include "tensor/arena.h"

namespace qshard {

void AdapterDropout::apply(Backend& backend, const AdapterTarget& target,
                           std::span<const std::int64_t> slot_begin, Tensor x, bool accumulate,
                           Tensor y) const {
    DropoutMask one = mask;
    one.target = static_cast<std::uint32_t>(target.layer * static_cast<std::int64_t>(Role::kCount) +
                                            static_cast<int>(target.role));
    for (std::size_t s = 0; s + 1 < slot_begin.size(); ++s, ++one.slot) {
        const std::int64_t first = slot_begin[s], rows = slot_begin[s + 1] - first;
        backend.dropout(one, x.row_range(first, rows), accumulate, y.row_range(first, rows));
    }
}

DropoutBytes dropout_bytes(const ModelConfig& config, const AdapterLayout& adapter,
                           std::int64_t tokens, DType compute) {
    const std::int64_t widest = std::max({config.width, config.q_width(), config.ffn_width});
    const auto count = static_cast<std::size_t>(tokens * widest);
    const std::size_t wide = Scratch::aligned(count * sizeof(float));
    return {Scratch::aligned(count * bytes_of(compute)), wide, adapter.rows > 0 ? wide : 0};
}

}  // namespace qshard
