#include "model/rotary.h"

#include <algorithm>

#include "spec/rope.h"

namespace qshard {
namespace {

/// Rows of the positions of documents that are not stretched.
std::int64_t plain_rows(const RopeConfig& rope, std::int64_t length) {
    return is_stretched(rope, length) ? rope.original_max_positions : length;
}

std::int64_t row_count(const RopeConfig& rope, const RotaryLimits& limits) {
    const std::int64_t plain = plain_rows(rope, limits.length);
    if (!is_stretched(rope, limits.length)) return plain;
    return plain + (rope.kind == RopeKind::kDynamic ? limits.tokens : limits.length);
}

}  // namespace

std::size_t Rotary::bytes(const ModelConfig& config, const RotaryLimits& limits) {
    std::size_t bytes = 0;
    for (const RopeConfig& rope : config.ropes) {
        const std::int64_t count = row_count(rope, limits) * rope.rotary_width / 2;
        bytes += 2 * Scratch::aligned(static_cast<std::size_t>(count) * sizeof(float));
    }
    return bytes;
}

Rotary::Rotary(Backend& backend, const ModelConfig& config, const RotaryLimits& limits,
               std::byte* memory)
    : backend_(backend), config_(config), limits_(limits) {
    Scratch scratch(memory, bytes(config, limits));
    for (std::size_t r = 0; r < config.ropes.size(); ++r) {
        const RopeConfig& rope = config.ropes[r];
        const std::int64_t rows = row_count(rope, limits), half = rope.rotary_width / 2;
        RopeTensors& tables = tables_.emplace_back();
        tables.cos = scratch.take(DType::kF32, {rows, half});
        tables.sin = scratch.take(DType::kF32, {rows, half});
        const std::int64_t plain = plain_rows(rope, limits.length);
        fill_positions(r, plain, 0);
        if (plain < limits.length && rope.kind == RopeKind::kLongrope)
            fill_positions(r, limits.length, plain);
    }
}

void Rotary::fill_positions(std::size_t rope, std::int64_t length, std::int64_t row) const {
    const RopeTable table = make_rope(config_.ropes[rope], length);
    const auto count = static_cast<std::size_t>(length * table.half_width());
    std::vector<float> cos(count), sin(count);
    table.fill(0, cos, sin);
    upload(rope, row, cos, sin);
}

void Rotary::upload(std::size_t rope, std::int64_t row, std::span<const float> cos,
                    std::span<const float> sin) const {
    const RopeTensors& tables = tables_[rope];
    const std::int64_t count = std::ssize(cos) / tables.cos.cols();
    backend_.upload(tables.cos.row_range(row, count).data(), cos.data(), cos.size_bytes());
    backend_.upload(tables.sin.row_range(row, count).data(), sin.data(), sin.size_bytes());
}

std::span<const std::int32_t> Rotary::rows(const TokenContext& context, int rope) {
    const auto r = static_cast<std::size_t>(rope);
    check(r < context.rope_rows.size(), "the call's rotary positions were chosen");
    return context.rope_rows[r].empty() ? context.positions : context.rope_rows[r];
}

void Rotary::place(TokenContext& context, std::int64_t first) const {
    check(context.lengths.size() == context.sequences.size(), "each sequence has a length");
    context.rope_rows.assign(config_.ropes.size(), {});
    for (const std::int64_t length : context.lengths)
        check(length <= limits_.length, "the document fits the rotary tables");
    for (std::size_t r = 0; r < config_.ropes.size(); ++r) {
        const bool stretched = std::ranges::any_of(context.lengths, [&](std::int64_t length) {
            return is_stretched(config_.ropes[r], length);
        });
        if (stretched) place_stretched(context, r, first);
    }
}

void Rotary::place_stretched(TokenContext& context, std::size_t rope, std::int64_t first) const {
    const RopeConfig& config = config_.ropes[rope];
    const std::int64_t plain = plain_rows(config, limits_.length);
    std::vector<std::int32_t>& rows = context.rope_rows[rope];
    rows = context.positions;
    std::vector<float> cos, sin;  // dynamic: of the stretched documents' tokens
    auto own = static_cast<std::int32_t>(plain + first);
    for (std::size_t s = 0; s < context.sequences.size(); ++s) {
        if (!is_stretched(config, context.lengths[s])) continue;
        const AttentionSequence& sequence = context.sequences[s];
        const std::span<std::int32_t> mine = std::span(rows).subspan(
            static_cast<std::size_t>(sequence.q_begin), static_cast<std::size_t>(sequence.q_count));
        if (config.kind == RopeKind::kLongrope) {
            for (std::int32_t& row : mine) row += static_cast<std::int32_t>(plain);
            continue;
        }
        const RopeTable table = make_rope(config, context.lengths[s]);
        const std::size_t begin = cos.size(),
                          count = mine.size() * table.inverse_frequencies.size();
        cos.resize(begin + count);
        sin.resize(begin + count);
        table.fill(sequence.k_count - sequence.q_count, std::span(cos).subspan(begin),
                   std::span(sin).subspan(begin));
        for (std::int32_t& row : mine) row = own++;
    }
    if (cos.empty()) return;
    check(own <= tables_[rope].cos.rows(), "the tables have a row for each token");
    upload(rope, plain + first, cos, sin);
}

}  // namespace qshard
