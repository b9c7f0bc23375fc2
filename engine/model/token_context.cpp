#include "model/token_context.h"

namespace qshard {

void TokenContext::add_slot(std::span<const std::int32_t> document_begin) {
    for (std::size_t d = 0; d + 1 < document_begin.size(); ++d) {
        const std::int32_t begin = document_begin[d], count = document_begin[d + 1] - begin;
        for (std::int32_t n = 0; n < count; ++n) positions.push_back(n);
        sequences.push_back({tokens + begin, count, tokens + begin, count});
        lengths.push_back(count);
    }
    if (!document_begin.empty()) tokens += document_begin.back();
    slot_begin.push_back(tokens);
}

void TokenContext::add_sequence(std::int64_t count, std::int64_t cache_row, std::int64_t cached,
                                std::int64_t length) {
    for (std::int64_t n = 0; n < count; ++n)
        positions.push_back(static_cast<std::int32_t>(cached + n));
    sequences.push_back({tokens, count, cache_row, cached + count});
    lengths.push_back(length);
    tokens += count;
}

}  // namespace qshard
