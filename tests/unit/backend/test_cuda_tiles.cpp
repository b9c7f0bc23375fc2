#include <gtest/gtest.h>

#include <map>

#include "backend/cuda/sizes.h"
#include "backend/cuda/tiles.h"

namespace qshard::cuda {
namespace {

TEST(CudaTiles, EveryQueryIsInOneTileAndSeesItsKeys) {
    const std::vector<AttentionSequence> sequences = {
        {0, 1, 0, 200}, {1, 130, 200, 130}, {131, 0, 330, 0}, {131, 64, 330, 100}};
    for (const int rows : {4, 32, 64}) {
        std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> seen;  // row -> keys
        for (const QueryTile& tile : query_tiles(sequences, rows)) {
            EXPECT_GT(tile.rows, 0);
            EXPECT_LE(tile.rows, rows);
            for (int i = 0; i < tile.rows; ++i) {
                EXPECT_TRUE(
                    seen.emplace(tile.q_row + i, std::pair{tile.k_row, tile.visible + i}).second);
            }
        }
        std::size_t queries = 0;
        for (const AttentionSequence& s : sequences) {
            for (std::int64_t i = 0; i < s.q_count; ++i, ++queries) {
                ASSERT_TRUE(seen.contains(s.q_begin + i));
                EXPECT_EQ(seen[s.q_begin + i], std::pair(s.k_begin, s.k_count - s.q_count + i + 1));
            }
        }
        EXPECT_EQ(seen.size(), queries);
    }
}

TEST(CudaTiles, KeysOfADocumentAreCoveredOnce) {
    const std::vector<AttentionSequence> documents = {{0, 65, 0, 65}, {65, 3, 65, 3}};
    std::map<std::int64_t, int> covered;
    for (const KeyTile& tile : key_tiles(documents, 32)) {
        EXPECT_EQ(tile.first % 32, 0);
        EXPECT_LE(tile.first + tile.count, tile.length);
        for (int i = 0; i < tile.count; ++i) ++covered[tile.row + tile.first + i];
    }
    EXPECT_EQ(covered.size(), 68u);
    for (const auto& [row, times] : covered) EXPECT_EQ(times, 1) << row;
    const std::vector<AttentionSequence> cached = {{0, 1, 0, 9}};
    EXPECT_THROW(key_tiles(cached, 32), BugError);
}

TEST(CudaTiles, PartsAreEvenAndFit) {
    for (const std::int64_t total : {0, 1, 63, 64, 65, 1000, 4097}) {
        for (const std::int64_t most : {64, 100, 4096}) {
            const Parts parts(total, most, 64);
            std::int64_t next = 0;
            for (std::int64_t p = 0; p < parts.count; ++p) {
                EXPECT_EQ(parts.begin(p), next);
                EXPECT_LE(parts.end(p) - parts.begin(p), most);
                EXPECT_TRUE(p + 1 == parts.count || (parts.end(p) - parts.begin(p)) % 64 == 0);
                next = parts.end(p);
            }
            EXPECT_EQ(next, total);
        }
    }
    EXPECT_THROW(Parts(10, 3, 64), BugError);
}

TEST(CudaTiles, GradientsOfWeightsHaveRoomForAnyNumberOfRows) {
    constexpr std::int64_t kBytes = std::int64_t{256} << 20, kChunk = 512;
    for (const std::int64_t width : {576, 14336, 28672, 36864, 262144}) {
        const RowPasses passes(kBytes, width, kChunk);
        ASSERT_GE(passes.each, kChunk);
        EXPECT_EQ(passes.each % kChunk, 0);
        for (const std::int64_t columns : {1, 16, 4096}) {
            for (const std::int64_t rows : {std::int64_t{0}, std::int64_t{1}, passes.each}) {
                const std::int64_t chunks = (rows + kChunk - 1) / kChunk;
                const Parts parts = passes.columns(columns, chunks);
                for (std::int64_t p = 0; p < parts.count; ++p)
                    EXPECT_LE((parts.end(p) - parts.begin(p)) * chunks * width * 4, kBytes);
            }
        }
    }
    EXPECT_EQ(RowPasses(kBytes, 14336, kChunk).each, 73 * kChunk);  // 37,376 tokens of an 8B model
    EXPECT_THROW(RowPasses(kBytes, std::int64_t{1} << 21, kChunk), BugError);
}

TEST(CudaTiles, AProductOfTheLibraryFits) {
    EXPECT_EQ(library_rows(14336, 4096, true), 9362);    // operands: 256 MiB
    EXPECT_EQ(library_rows(4096, 128256, true), 16743);  // results: 2^31 elements
    EXPECT_EQ(library_rows(16, 28672, true), 74898);
    EXPECT_EQ(library_rows(262144, 8, false), 256);
}

/// Rows of each slot in chunks from its own first row on, whatever lies before it, each once.
TEST(CudaTiles, GradientsOfSlotsAreCutAsIfEachWereAlone) {
    constexpr std::int64_t kMost = 40, kChunk = 10;
    using Cut = std::vector<std::pair<std::int64_t, std::int64_t>>;  // row of the slot, rows
    const auto cut_of = [](std::span<const std::int64_t> begin) {
        std::vector<std::vector<Cut>> slots(begin.size() - 1);  // by slot and launch
        for (const RowsLaunch& launch : rows_launches(begin, kMost, kChunk)) {
            EXPECT_LE(std::ssize(launch.chunks), kMost / kChunk);
            std::size_t next = 0;
            for (const RowSum& sum : launch.sums) {
                const auto slot = static_cast<std::size_t>(sum.result);
                EXPECT_EQ(static_cast<std::size_t>(sum.first), next);
                EXPECT_EQ(launch.accumulate, !slots[slot].empty());
                Cut& cut = slots[slot].emplace_back();
                for (int i = 0; i < sum.count; ++i, ++next) {
                    const RowChunk& chunk = launch.chunks[next];
                    cut.emplace_back(chunk.row - begin[slot], chunk.rows);
                }
            }
            EXPECT_EQ(next, launch.chunks.size());
        }
        return slots;
    };
    const std::vector<std::int64_t> begin = {0, 1, 1, 12, 137, 177, 187, 200, 215, 300};
    const auto together = cut_of(begin);
    for (std::size_t s = 0; s + 1 < begin.size(); ++s) {
        const std::int64_t alone[] = {0, begin[s + 1] - begin[s]};
        EXPECT_EQ(together[s], cut_of(alone)[0]) << "slot " << s;
        std::int64_t rows = 0;
        for (const Cut& cut : together[s]) {
            for (const auto& [row, count] : cut) {
                EXPECT_EQ(row, rows);
                rows += count;
            }
        }
        EXPECT_EQ(rows, alone[1]);
    }
    EXPECT_EQ(rows_launches(begin, kMost, kChunk).size(), 11U);  // of 14, each slot alone
}

}  // namespace
}  // namespace qshard::cuda
