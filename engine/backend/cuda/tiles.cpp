#include "backend/cuda/tiles.h"

#include <algorithm>

namespace qshard::cuda {

std::vector<QueryTile> query_tiles(std::span<const AttentionSequence> sequences, int rows) {
    std::vector<QueryTile> tiles;
    for (const AttentionSequence& s : sequences) {
        for (std::int64_t first = (s.q_count - 1) / rows * rows; first >= 0; first -= rows) {
            if (s.q_count == 0) break;
            QueryTile tile;
            tile.q_row = narrow<std::int32_t>(s.q_begin + first);
            tile.rows = narrow<std::int32_t>(std::min<std::int64_t>(rows, s.q_count - first));
            tile.k_row = narrow<std::int32_t>(s.k_begin);
            tile.visible = narrow<std::int32_t>(s.k_count - s.q_count + first + 1);
            tiles.push_back(tile);
        }
    }
    return tiles;
}

std::vector<KeyTile> key_tiles(std::span<const AttentionSequence> sequences, int keys) {
    std::vector<KeyTile> tiles;
    for (const AttentionSequence& s : sequences) {
        check(s.q_begin == s.k_begin && s.q_count == s.k_count,
              "attention_backward takes whole documents");
        for (std::int64_t first = 0; first < s.k_count; first += keys) {
            KeyTile tile;
            tile.row = narrow<std::int32_t>(s.k_begin);
            tile.first = narrow<std::int32_t>(first);
            tile.count = narrow<std::int32_t>(std::min<std::int64_t>(keys, s.k_count - first));
            tile.length = narrow<std::int32_t>(s.k_count);
            tiles.push_back(tile);
        }
    }
    return tiles;
}

Parts::Parts(std::int64_t total, std::int64_t most, std::int64_t unit) : total_(total) {
    check(most >= unit && unit > 0, "a part has room for its unit");
    count = std::max<std::int64_t>(1, (total + most - 1) / most);
    each = (total + count - 1) / count;
    each = std::min((each + unit - 1) / unit * unit, most / unit * unit);
    count = std::max<std::int64_t>(1, (total + each - 1) / std::max<std::int64_t>(each, 1));
}

RowPasses::RowPasses(std::int64_t bytes, std::int64_t b_cols, std::int64_t chunk)
    : bytes_(bytes), column_bytes_(b_cols * static_cast<std::int64_t>(sizeof(float))) {
    each = bytes_ / (kUnit * column_bytes_) * chunk;
    check(each > 0, "partial sums of one chunk have room");
}

std::vector<RowsLaunch> rows_launches(std::span<const std::int64_t> begin, std::int64_t most,
                                      std::int64_t chunk) {
    std::vector<RowsLaunch> launches;
    std::int64_t room = 0;  // chunks that the last launch has left
    for (std::size_t s = 0; s + 1 < begin.size(); ++s) {
        for (std::int64_t row = begin[s]; row == begin[s] || row < begin[s + 1]; row += most) {
            const std::int64_t rows = std::min(most, begin[s + 1] - row);
            const std::int64_t count = (rows + chunk - 1) / chunk;
            const bool accumulate = row > begin[s];
            if (launches.empty() || count > room || launches.back().accumulate != accumulate) {
                launches.push_back({{}, {}, accumulate});
                room = most / chunk;
            }
            room -= count;
            RowsLaunch& launch = launches.back();
            launch.sums.push_back({narrow<std::int32_t>(s),
                                   narrow<std::int32_t>(launch.chunks.size()),
                                   narrow<std::int32_t>(count)});
            for (std::int64_t at = 0; at < rows; at += chunk) {
                launch.chunks.push_back({narrow<std::int32_t>(row + at),
                                         narrow<std::int32_t>(std::min(chunk, rows - at))});
            }
        }
    }
    return launches;
}

Parts RowPasses::columns(std::int64_t m, std::int64_t chunks) const {
    return {m, bytes_ / (std::max<std::int64_t>(chunks, 1) * column_bytes_), kUnit};
}

}  // namespace qshard::cuda
