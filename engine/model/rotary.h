#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/token_context.h"
#include "spec/model_config.h"
#include "tensor/arena.h"

/// Rotary positions by the length of each document, as transformers has them when it runs the
/// document alone: "longrope" divides by its short factors up to the original length and by its
/// long ones beyond, "dynamic" raises its base with every token beyond. What else is in a call
/// never matters.
namespace qshard {

/// Rotary tables of one RopeConfig on the backend: fp32 [rows, rotary_width / 2].
struct RopeTensors {
    Tensor cos, sin;
};

/// What the tables have room for.
struct RotaryLimits {
    std::int64_t length = 0;  ///< tokens of the longest document
    std::int64_t tokens = 0;  ///< of all calls whose rows are in use at the same time
};

/// The tables of a model. Rows 0, 1, ... are the positions of documents that are not stretched. Of
/// longrope those of stretched ones follow; of dynamic a row for each token of them, filled call by
/// call, as every length has frequencies of its own.
class Rotary {
  public:
    static std::size_t bytes(const ModelConfig& config, const RotaryLimits& limits);
    /// Fills the tables, which take bytes() of `memory`. `config` outlives it.
    Rotary(Backend& backend, const ModelConfig& config, const RotaryLimits& limits,
           std::byte* memory);

    /// Chooses the rows of a call's tokens. `first`: how many tokens the calls have that came
    /// before it and are not done; a later call from there on overwrites its rows.
    void place(TokenContext& context, std::int64_t first) const;

    const RopeTensors& tables(int rope) const { return tables_[static_cast<std::size_t>(rope)]; }
    /// [N] rows of a call's tokens in tables(rope); place() has chosen them.
    static std::span<const std::int32_t> rows(const TokenContext& context, int rope);

  private:
    /// Rows `row`, ... become those of positions 0, 1, ... in a document of `length` tokens.
    void fill_positions(std::size_t rope, std::int64_t length, std::int64_t row) const;
    void place_stretched(TokenContext& context, std::size_t rope, std::int64_t first) const;
    /// cos, sin: whole rows, which go to `row` and after it.
    void upload(std::size_t rope, std::int64_t row, std::span<const float> cos,
                std::span<const float> sin) const;

    Backend& backend_;
    const ModelConfig& config_;
    const RotaryLimits limits_;
    std::vector<RopeTensors> tables_;  ///< [ropes]
};

}  // namespace qshard
