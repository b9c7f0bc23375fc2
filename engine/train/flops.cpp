#include "train/flops.h"

namespace qshard {

UsefulFlops useful_flops(const ModelConfig& config, const AdapterLayout* adapter) {
    UsefulFlops flops;
    const double chosen = config.experts == 0 ? 1.0
                                              : static_cast<double>(config.experts_per_token) /
                                                    static_cast<double>(config.experts);
    for (std::int64_t l = 0; l < config.layers; ++l) {
        for (const WeightSpec& weight : layer_weights(config, l)) {
            if (!weight.linear) continue;
            const double used = is_expert(weight.role) ? chosen : 1.0;
            flops.per_token += 4.0 * used * static_cast<double>(weight.count());
        }
    }
    if (adapter != nullptr) {
        flops.per_token += 6.0 * static_cast<double>(adapter->lora_count());
        for (const AdapterTarget& target : adapter->targets) {
            if (target.experts == 0) continue;
            const std::int64_t elements = target.pairs() * target.r * (target.in + target.out);
            flops.per_token -= 6.0 * (1.0 - chosen) * static_cast<double>(elements);
        }
    }
    const bool trains_head = adapter != nullptr && adapter->trains_head();
    flops.per_supervised =
        (trains_head ? 6.0 : 4.0) * static_cast<double>(config.vocabulary * config.width);
    flops.attention_per_pair = 12.0 * static_cast<double>(config.q_width() * config.layers);
    return flops;
}

double UsefulFlops::of(std::span<const Slot> slots) const {
    double total = 0;
    for (const Slot& slot : slots) {
        total += per_token * static_cast<double>(slot.tokens.size());
        total += per_supervised * static_cast<double>(slot.supervised());
        for (std::size_t s = 0; s + 1 < slot.document_begin.size(); ++s) {
            const auto length =
                static_cast<double>(slot.document_begin[s + 1] - slot.document_begin[s]);
            total += attention_per_pair * length * (length + 1) / 2;
        }
    }
    return total;
}

}  // namespace qshard
