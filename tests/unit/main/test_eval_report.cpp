#include <gtest/gtest.h>

#include "main/eval_report.h"

namespace qshard {
namespace {

const std::vector<EvalExample> kExamples{
    {"Mask: I am Ann\n", "I am [NAME]"}, {"Mask: Call 12\n", "Call [PHONE]"}, {"", ""}};
const std::vector<EvalSubject> kSubjects{
    {"base", {{4.0, 2, "I am Ann"}, {6.0, 3, "Call [NAME]"}, {1.0, 1, {}}}},
    {"out/adapter", {{0.5, 2, "I am [NAME]"}, {0.5, 3, " Call [PHONE]\n"}, {0.2, 1, {}}}}};

TEST(EvalReport, Summarizes) {
    const EvalSummary base = summarize(kExamples, kSubjects[0], true);
    EXPECT_DOUBLE_EQ(base.loss, 11.0 / 6);
    EXPECT_EQ(base.tokens, 6);
    EXPECT_EQ(base.answered, 2);
    EXPECT_EQ(base.exact, 0);
    EXPECT_EQ(base.masks.at("NAME").misses, 1);
    EXPECT_EQ(base.masks.at("NAME").false_alarms, 1);
    const EvalSummary tuned = summarize(kExamples, kSubjects[1], true);
    EXPECT_DOUBLE_EQ(tuned.loss, 0.2);
    EXPECT_EQ(tuned.exact, 2);
    EXPECT_DOUBLE_EQ(total(tuned.masks).f1(), 1.0);
    EXPECT_TRUE(summarize(kExamples, kSubjects[1], false).masks.empty());
}

TEST(EvalReport, TableShowsBothSidesAndWhatDiffers) {
    const std::string table = eval_table("test", kExamples, kSubjects, true);
    for (const char* part : {"test, 3 rows", "base", "out/adapter", "1.8333", "0.2000", "0.0 %",
                             "100.0 %", "2 of 2", "NAME", "PHONE", "I am Ann   (differs)"})
        EXPECT_NE(table.find(part), std::string::npos) << part << " in\n" << table;
    EXPECT_EQ(table.find("I am [NAME]   (differs)"), std::string::npos);
}

TEST(EvalReport, JsonAndLinesCarryTheSameFigures) {
    const auto json = eval_json("test", kExamples, kSubjects, true);
    const auto& tuned = json.at("subjects").as_array()[1].as_object();
    EXPECT_EQ(tuned.at("subject"), "tuned");
    EXPECT_DOUBLE_EQ(tuned.at("exact_match").as_double(), 1.0);
    EXPECT_EQ(tuned.at("masks").at("kinds").at("NAME").at("hits"), 1);
    const std::string lines = eval_lines(kExamples, kSubjects);
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
    const auto first = boost::json::parse(lines.substr(0, lines.find('\n'))).as_object();
    EXPECT_EQ(first.at("expected"), "I am [NAME]");
    EXPECT_EQ(first.at("base"), "I am Ann");
    EXPECT_EQ(first.at("tuned"), "I am [NAME]");
}

TEST(EvalReport, TablesForTheReportHaveEveryKindOfMask) {
    const auto tables = report_tables(kExamples, kSubjects, true);
    ASSERT_EQ(tables.size(), 2u);
    using Row = std::vector<std::string>;
    EXPECT_EQ(tables[0][0], (Row{"", "before", "after"}));
    EXPECT_EQ(tables[0][1], (Row{"loss", "1.8333", "0.2000"}));
    EXPECT_EQ(tables[0][3], (Row{"exact match", "0.0 % (0 of 2)", "100.0 % (2 of 2)"}));
    ASSERT_EQ(tables[1].size(), 4u);
    EXPECT_EQ(tables[1][1],
              (Row{"NAME", "0.0 %", "100.0 %", "0.0 %", "100.0 %", "0.000", "1.000", "1", "0"}));
    EXPECT_EQ(tables[1][2][0], "PHONE");
    EXPECT_EQ(report_tables(kExamples, kSubjects, false).size(), 1u);
}

TEST(EvalReport, WithoutAnswersThereIsOnlyTheLoss) {
    const std::vector<EvalExample> examples{{"", ""}};
    const std::vector<EvalSubject> subjects{{"base", {{3.0, 2, {}}}}};
    const std::string table = eval_table("validation", examples, subjects, true);
    EXPECT_NE(table.find("1.5000"), std::string::npos);
    EXPECT_EQ(table.find("exact match"), std::string::npos);
    EXPECT_FALSE(eval_json("validation", examples, subjects, false)
                     .at("subjects")
                     .as_array()[0]
                     .as_object()
                     .contains("exact_match"));
}

}  // namespace
}  // namespace qshard
