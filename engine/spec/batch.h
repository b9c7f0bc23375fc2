#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// What training reads: an ordered list of micro-batch slots per optimizer step, a function of
/// (data, seed, step) and never of the ranks.
namespace qshard {

/// Target of a position that carries no loss (PyTorch's ignore_index).
constexpr std::int32_t kIgnoreIndex = -100;

/// One micro-batch: documents laid end to end, without padding. N = tokens.size().
struct Slot {
    std::vector<std::int32_t> tokens;  ///< [N]
    std::vector<std::int32_t>
        targets;  ///< [N] token to predict at this position (already shifted), or kIgnoreIndex
    std::vector<std::int32_t>
        document_begin;  ///< [S+1] first token of each document, then N; positions restart there
    std::int64_t supervised() const {
        std::int64_t count = 0;
        for (std::int32_t target : targets) count += target != kIgnoreIndex ? 1 : 0;
        return count;
    }
};

/// What every rank must know of a step before any of its slots is computed.
struct StepInfo {
    std::int64_t slot_count = 0;  ///< slots of this step (the last step of an epoch may have fewer)
    std::int64_t supervised_tokens = 0;  ///< over all slots: the denominator of the loss
    std::int64_t tokens = 0;             ///< over all slots
    double epoch = 0;                    ///< epochs completed after this step
};

/// An ordered source of steps. Same answers on every rank; slot() is cheap enough to be called only
/// by the slot's owner.
class BatchSource {
  public:
    virtual ~BatchSource() = default;
    virtual std::int64_t steps_per_epoch() const = 0;
    virtual StepInfo step(std::int64_t step) const = 0;
    virtual Slot slot(std::int64_t step, std::int64_t index) const = 0;
    /// SHA-256 over everything that determines the slots.
    virtual std::string sha256() const = 0;
};

}  // namespace qshard
