#include <gtest/gtest.h>

#include "io/data/split_stats.h"

namespace qshard {
namespace {

SplitStats stats_of(std::int64_t kept) {
    SplitStats stats;
    stats.rows = kept;
    stats.supervised = 10 * kept;
    stats.longest_given = 900;
    return stats;
}

void add(RowPlaces& rows, int count) {
    for (int i = 0; i < count; ++i) rows.add("d.jsonl:" + std::to_string(i + 1));
}

std::string only_warning(const SplitStats& stats, std::int64_t positions = 2048) {
    const auto warnings = data_warnings(stats, "data.train", 512, positions);
    return warnings.size() == 1 ? warnings.front() : std::to_string(warnings.size()) + " warnings";
}

TEST(SplitStats, PlacesAreKeptForTheFirstRowsOnly) {
    RowPlaces rows;
    add(rows, 1000);
    EXPECT_EQ(rows.count, 1000);
    EXPECT_EQ(rows.places.size(), RowPlaces::kMost);
    EXPECT_EQ(rows.examples(2), "d.jsonl:1, d.jsonl:2 and 998 more");
    RowPlaces two;
    add(two, 2);
    EXPECT_EQ(two.examples(3), "d.jsonl:1, d.jsonl:2");
}

TEST(SplitStats, LossesOfATwentiethOfTheRowsAreTold) {
    SplitStats stats = stats_of(96);
    EXPECT_TRUE(data_warnings(stats, "data.train", 512, 2048).empty());
    add(stats.answer_cut, 4);
    EXPECT_TRUE(data_warnings(stats, "data.train", 512, 2048).empty());
    add(stats.skipped, 2);
    EXPECT_EQ(only_warning(stats),
              "data.train: 6 of 102 rows are lost because data.max_length is 512 (nothing of their "
              "answer is left): d.jsonl:1, d.jsonl:2, d.jsonl:3 and 3 more. data.max_length 900 "
              "keeps all of them whole.");
    EXPECT_NE(only_warning(stats, 800).find("more than this model's 800 positions"),
              std::string::npos);
    EXPECT_NE(only_warning(stats, 0).find("data.max_length 900 keeps"), std::string::npos);
}

TEST(SplitStats, FewRowsThatLoseMuchAreTold) {
    SplitStats stats = stats_of(1000);
    add(stats.truncated, 3);
    stats.supervised_lost = 100;
    EXPECT_TRUE(data_warnings(stats, "data.train", 512, 2048).empty());
    stats.supervised_lost = 1000;
    EXPECT_NE(only_warning(stats).find("3 of 1000 rows are cut to data.max_length 512, and 9 %"),
              std::string::npos);
}

TEST(SplitStats, RowsWithoutLossAreTold) {
    SplitStats stats = stats_of(5);
    add(stats.without_loss, 1);
    EXPECT_NE(only_warning(stats).find("1 of 6 rows are dropped because no token"),
              std::string::npos);
}

TEST(SplitStats, TheTableNamesEveryFateThatOccurred) {
    SplitStats stats = stats_of(3);
    add(stats.skipped, 9);
    add(stats.weightless, 1);
    EXPECT_EQ(stats.rows_read(), 13);
    const std::string table = fate_table(stats);
    EXPECT_NE(table.find("dropped: longer than data.max_length"), std::string::npos);
    EXPECT_NE(table.find("d.jsonl:8 and 1 more"), std::string::npos);
    EXPECT_NE(table.find("dropped: their weight is 0"), std::string::npos);
    EXPECT_EQ(table.find("no token carries loss"), std::string::npos);
}

}  // namespace
}  // namespace qshard
