#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "../checkpoint/sample_state.h"
#include "base/error.h"
#include "base/hash.h"
#include "io/report/html_report.h"
#include "io/report/metrics_log.h"
#include "io/report/run_status.h"
#include "io/report/tensorboard.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

std::string slurp(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

std::string hex(const std::string& bytes) {
    std::string text;
    for (unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
    return text;
}

TEST(MetricsLog, AppendsAndResumesAtTheRecordedLength) {
    const TempFolder folder;
    const fs::path file = folder.path() / "metrics.jsonl";
    std::int64_t bytes = 0;
    std::string digest;
    {
        MetricsLog log(file);
        log.append(R"({"step":1})");
        log.sync();
        bytes = log.bytes();
        digest = log.sha256();
        log.append(R"({"step":2})");
    }
    EXPECT_EQ(slurp(file), "{\"step\":1}\n{\"step\":2}\n");
    EXPECT_EQ(digest, sha256_hex(std::string("{\"step\":1}\n")));
    MetricsLog resumed(file, bytes, digest);
    EXPECT_EQ(resumed.warning(), "");
    resumed.append(R"({"step":2,"again":true})");
    EXPECT_EQ(slurp(file), "{\"step\":1}\n{\"step\":2,\"again\":true}\n");
    EXPECT_EQ(resumed.sha256(), sha256_hex(slurp(file)));
    EXPECT_THROW(resumed.append("a\nb"), BugError);
}

TEST(MetricsLog, ADamagedLogIsMovedAside) {
    const TempFolder folder;
    const fs::path file = folder.path() / "metrics.jsonl";
    std::ofstream(file) << "{\"step\":9}\n";
    for (const std::int64_t bytes : {11, 500}) {
        MetricsLog log(file, bytes, std::string(64, '0'));
        EXPECT_NE(log.warning().find("metrics.jsonl.damaged"), std::string::npos);
        EXPECT_EQ(log.bytes(), 0);
        log.append("{}");
        EXPECT_EQ(slurp(file), "{}\n");
    }
    MetricsLog fresh(file);
    EXPECT_EQ(slurp(file), "") << "without a checkpoint the log begins anew";
}

TEST(RunStatus, RoundTrip) {
    const TempFolder folder;
    const fs::path file = folder.path() / "run_status.json";
    EXPECT_FALSE(read_run_status(file).has_value());
    RunStatus status;
    status.state = "failed";
    status.step = 120;
    status.total_steps = 200;
    status.exit_code = 75;
    status.starts_without_progress = 1;
    status.saved_step = 100;
    status.updated = "2025-01-31T12:00:00Z";
    status.cause = RunCause{3, "n07", 4711, 9, "reduce", "no heartbeat for 60 s"};
    write_run_status(file, status);
    EXPECT_EQ(read_run_status(file), status);
    status.updated.clear();
    status.cause.reset();
    write_run_status(file, status);
    EXPECT_FALSE(read_run_status(file)->cause.has_value());
    EXPECT_EQ(read_run_status(file)->updated.size(), 20u);
    std::ofstream(file) << "{\"step\": -1}";
    EXPECT_THROW(read_run_status(file), UserError);
}

TEST(TensorBoard, Crc32c) {
    // RFC 3720, B.4, and the usual check value.
    EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
    EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
    EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
}

TEST(TensorBoard, KnownBytes) {
    // Serialized by tensorboard 2.x: Event(wall_time=1.5, file_version="brain.Event:2") and
    // Event(wall_time=2.5, step=300, summary=Summary(value=[Value(tag="loss",
    // simple_value=0.25)])).
    EXPECT_EQ(hex(version_event(1.5)), "09000000000000f83f1a0d627261696e2e4576656e743a32");
    EXPECT_EQ(hex(scalar_event(2.5, 300, "loss", 0.25f)),
              "09000000000000044010ac022a0d0a0b0a046c6f7373150000803e");
    EXPECT_EQ(hex(tfrecord_frame("abc")), "0300000000000000b099490e6162636e57f121");
}

TEST(TensorBoard, FileIsASequenceOfFrames) {
    const TempFolder folder;
    fs::path file;
    {
        EventWriter writer(folder.path() / "tensorboard");
        writer.scalar("train/loss", 1, 2.5);
        writer.scalar("train/loss", 2, 2.25);
        file = writer.file();
    }
    EXPECT_TRUE(file.filename().string().starts_with("events.out.tfevents."));
    const std::string bytes = slurp(file);
    std::size_t at = 0, frames = 0;
    while (at + 16 <= bytes.size()) {
        std::uint64_t length = 0;
        std::memcpy(&length, bytes.data() + at, 8);
        ASSERT_LE(at + 16 + length, bytes.size());
        EXPECT_EQ(bytes.substr(at, 16 + length), tfrecord_frame(bytes.substr(at + 12, length)));
        at += 16 + length;
        ++frames;
    }
    EXPECT_EQ(at, bytes.size());
    EXPECT_EQ(frames, 3u);
}

TEST(TensorBoard, StepsThatAreTrainedAgainAreForgotten) {
    const TempFolder folder;
    fs::path first, second;
    {
        EventWriter writer(folder.path());
        for (int step = 1; step <= 300; ++step) writer.scalar("train/loss", step, step);
        first = writer.file();
    }
    {
        EventWriter writer(folder.path(), 301);
        writer.scalar("train/loss", 301, 1);
        second = writer.file();
    }
    EXPECT_LT(first.filename(), second.filename()) << "read in the order of the starts";
    const std::string whole = slurp(first);
    std::ofstream(first, std::ios::app) << "torn";
    forget_events_after(folder.path(), 300);
    EXPECT_EQ(slurp(first), whole) << "up to the torn record";
    EXPECT_FALSE(fs::exists(second)) << "no point is left in it";
    forget_events_after(folder.path(), 129);
    std::string want = tfrecord_frame(version_event(0));
    std::size_t at = want.size();
    for (int step = 1; step <= 129; ++step)
        at += tfrecord_frame(scalar_event(0, step, "train/loss", 0)).size();
    EXPECT_EQ(slurp(first), whole.substr(0, at));
    forget_events_after(folder.path(), 0);
    EXPECT_TRUE(fs::is_empty(folder.path()));
    forget_events_after(folder.path() / "none", 0);
}

TEST(TensorBoard, ARestartIsOneForTensorBoard) {
    // Event(wall_time=1.5, step=300, session_log=SessionLog(status=SessionLog.START)), serialized
    // by tensorboard 2.x.
    EXPECT_EQ(hex(restart_event(1.5, 300)), "09000000000000f83f10ac023a020801");
}

TEST(SvgChart, DrawsGapsTicksAndNoScripts) {
    Series series{"<loss>", {}, {}};
    for (int i = 0; i < 5000; ++i) {
        series.steps.push_back(i);
        series.values.push_back(i == 2500               ? 99
                                : i >= 3000 && i < 3100 ? std::nan("")
                                                        : 1.0 / (i + 1));
    }
    const std::string svg = svg_chart("loss & more", {series});
    EXPECT_LT(svg.size(), 20000u) << "thinned";
    EXPECT_NE(svg.find("loss &amp; more"), std::string::npos);
    EXPECT_NE(svg.find(">80<"), std::string::npos) << "the spike sets the scale";
    const std::size_t path = svg.find("<path d=\"");
    EXPECT_EQ(std::count(svg.begin() + static_cast<std::ptrdiff_t>(path), svg.end(), 'M'), 2)
        << "one gap";
    EXPECT_EQ(svg_chart("none", {Series{}}), "");
    EXPECT_NE(svg_chart("flat", {Series{"x", {1, 2}, {3, 3}}}).find("<path"), std::string::npos);
}

TEST(HtmlReport, IsOneFileWithoutNetworkAndEscapes) {
    const TempFolder folder;
    std::ofstream(folder.path() / "m") << "{\"step\":1,\"loss\":2.5,\"grad_norm\":1}\nnoise\n"
                                       << "{\"step\":2,\"loss\":1.5,\"eval_loss\":1.75}\n";
    Report report;
    report.title = "<script>alert(1)</script>";
    report.verdict = "loss 2.5 -> 1.5";
    report.summary = {{"model", "a & b"}};
    report.charts = charts_of_metrics(folder.path() / "m");
    report.evaluation = {{"metric", "before", "after"}, {"exact match", "3 %", "97 %"}};
    report.examples = {{"Mask: \"x\"", "y", "z", "y"}};
    report.run_yaml = "model: {base: m.gguf}\n";
    const std::string html = html_report(report);
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_EQ(html.find("http://"), std::string::npos);
    EXPECT_EQ(html.find("https://"), std::string::npos);
    EXPECT_NE(html.find("default-src 'none'"), std::string::npos);
    EXPECT_NE(html.find("<td>exact match</td><td>3 %</td><td>97 %</td>"), std::string::npos);
    EXPECT_NE(html.find("evaluation</text>"), std::string::npos);
    EXPECT_NE(html.find("gradient norm"), std::string::npos);
    EXPECT_EQ(html.find("<h2>Memory"), std::string::npos) << "empty parts are left out";
}

TEST(HtmlReport, SettingsAreGroupedAndAllTextIsEscaped) {
    Report report;
    report.summary = {{"steps", "1 < 2"}};
    report.settings = {{"Data & more", {{"train", "<a>.jsonl"}}}};
    report.evaluation = {{"", "before", "after"}, {"loss", "2", "1"}};
    report.evaluation_note = "see \"eval\"";
    const std::string html = html_report(report);
    for (const char* part : {"<b>1 &lt; 2</b>", "<h3>Data &amp; more</h3>",
                             "<td>train</td><td>&lt;a&gt;.jsonl</td>", "see &quot;eval&quot;"})
        EXPECT_NE(html.find(part), std::string::npos) << part << "\n" << html;
}

TEST(HtmlReport, ALaterEvaluationIsAddedAndReplacesTheOneOfItsSplit) {
    const auto count = [](const std::string& text, const std::string& part) {
        std::size_t found = 0;
        for (std::size_t at = text.find(part); at != std::string::npos;
             at = text.find(part, at + 1))
            ++found;
        return found;
    };
    const auto evaluation = [](const char* key, const char* loss) {
        return LaterEvaluation{
            key, std::string(key) + ", 7 rows", {{{"", "after"}, {"loss", loss}}}};
    };
    const std::string bare = html_report(Report{});
    EXPECT_EQ(count(bare, "Evaluation, before"), 0u);
    const auto first = with_evaluation(bare, evaluation("test", "1.5"));
    ASSERT_TRUE(first);
    EXPECT_EQ(count(*first, "Evaluation, before"), 1u);
    const auto second = with_evaluation(*first, evaluation("validation", "2.5"));
    const auto third = with_evaluation(*second, evaluation("test", "0.5"));
    EXPECT_EQ(count(*third, "Evaluation, before"), 1u);
    EXPECT_EQ(count(*third, "test, 7 rows"), 1u);
    EXPECT_EQ(count(*third, "<td>1.5</td>"), 0u);
    EXPECT_EQ(count(*third, "<td>0.5</td>"), 1u);
    EXPECT_EQ(count(*third, "<td>2.5</td>"), 1u);
    EXPECT_TRUE(third->ends_with("</body></html>\n"));
    EXPECT_FALSE(with_evaluation("<html>of someone else</html>", evaluation("test", "1")));
}

TEST(HtmlReport, ShortCurvesHaveMarksAndAxesAreNamed) {
    const std::string few = svg_chart("loss", {{"evaluation", {1, 2, 3}, {3, 2, 1}}});
    EXPECT_NE(few.find("<circle"), std::string::npos);
    EXPECT_NE(few.find(">step</text>"), std::string::npos);
    Series many{"training", {}, {}};
    for (int i = 0; i < 500; ++i) {
        many.steps.push_back(i);
        many.values.push_back(1.0 / (1 + i));
    }
    EXPECT_EQ(svg_chart("loss", {many}).find("<circle"), std::string::npos);
}

}  // namespace
}  // namespace qshard
