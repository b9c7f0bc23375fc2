#include "data_test.h"
#include "io/data/format.h"
#include "io/data/rows.h"
#include "tests/temp_folder.h"

using namespace qshard;
using namespace qshard::test;

namespace {

std::string read_error(const std::string& name, const std::string& text) {
    const Files files;
    const std::string path = files.write(name, text);
    return files.shorten(error_of([&] { read_rows(path); }));
}

DataRow row_of(const std::string& json, const std::string& place = "train.jsonl:7") {
    return {boost::json::parse(json).as_object(), place};
}

std::string format_error(const std::string& json, FormatOptions options = {}) {
    return error_of([&] { interpret_row(row_of(json), options); });
}

}  // namespace

TEST(Rows, LinesKnowTheirPlace) {
    const Files files;
    const std::string path =
        files.write("a.jsonl", "\xEF\xBB\xBF{\"text\":\"one\"}\r\n\n  \n{\"text\":\"zwei é\"}");
    const auto rows = read_rows(path);
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0].place, path + ":1");
    EXPECT_EQ(rows[1].place, path + ":4");
    EXPECT_EQ(rows[1].columns.at("text"), "zwei é");
}

TEST(Rows, JsonIsAnArrayOrLines) {
    const Files files;
    const auto array =
        read_rows(files.write("a.json", " \n[{\"text\":\"one\"},\n{\"text\":\"two\"}]\n"));
    ASSERT_EQ(array.size(), 2u);
    EXPECT_EQ(files.shorten(array[1].place), "a.json, row 2");
    EXPECT_EQ(read_rows(files.write("b.json", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n")).size(),
              2u);
}

TEST(Rows, CsvFollowsRfc4180) {
    const Files files;
    const auto rows = read_rows(files.write(
        "a.csv", "prompt,completion\r\n\"a, \"\"b\"\"\",c\r\n\"line\nbreak\n\",\r\n,\"\"\n"));
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[0].columns.at("prompt"), "a, \"b\"");
    EXPECT_EQ(rows[0].columns.at("completion"), "c");
    EXPECT_EQ(rows[1].columns.at("prompt"), "line\nbreak\n");
    EXPECT_EQ(rows[1].columns.at("completion"), "");
    EXPECT_EQ(files.shorten(rows[2].place), "a.csv:6");
    EXPECT_EQ(read_error("a.csv", "a,b\n1\n"), "a.csv:2: 1 fields, the header has 2");
    EXPECT_EQ(read_error("a.csv", "a,a\n1,2\n"),
              "a.csv:1: the column \"a\" appears twice in the header");
    EXPECT_EQ(read_error("a.csv", "a,b\n\"x,2\n3,4\n"), "a.csv:2: a quoted field is not closed");
    EXPECT_EQ(read_error("a.csv", "a\n\"x\"y\n"),
              "a.csv:2: text after a quoted field (write \"\" for a quote inside it)");
    EXPECT_NE(read_error("a.csv", "a\nx\"y\n").find("a.csv:2: a quote inside"), std::string::npos);
    EXPECT_EQ(read_error("a.csv", "a,b\n"), "a.csv: the file has no rows");
}

TEST(Rows, BrokenInputNamesFileAndLine) {
    EXPECT_EQ(read_error("a.jsonl", "{\"text\":\"x\"}\n{\"text\":\"\xff\"}\n"),
              "a.jsonl:2: not valid UTF-8. Convert the file to UTF-8.");
    EXPECT_NE(
        read_error("a.jsonl", "{\"text\":\"x\"}\n\n{\"text\":").find("a.jsonl:3: not valid JSON"),
        std::string::npos);
    EXPECT_NE(read_error("a.jsonl", "{} {}").find("a.jsonl:1: not valid JSON"), std::string::npos);
    EXPECT_NE(read_error("a.jsonl", "{\"a\":1,\"a\":2}").find("\"a\" appears twice"),
              std::string::npos);
    EXPECT_NE(read_error("a.jsonl", std::string(100000, '[')).find("a.jsonl:1: not valid JSON"),
              std::string::npos);
    EXPECT_EQ(read_error("a.jsonl", "[1]"),
              "a.jsonl:1: expected a JSON object {...}, found another value");
    EXPECT_EQ(read_error("a.jsonl", "{}\n" + std::string((16 << 20) + 1, ' ')),
              "a.jsonl:2: the line is longer than 16 MiB");
    EXPECT_EQ(read_error("a.jsonl", ""), "a.jsonl: the file has no rows");
    EXPECT_EQ(read_error("a.json", "3"), "a.json: expected an array of objects [{...}, ...]");
    EXPECT_EQ(read_error("a.json", "[1]"),
              "a.json, row 1: expected a JSON object {...}, found another value");
    EXPECT_EQ(read_error("a.parquet", "x"),
              "a.parquet: expected a data file that ends in .jsonl, .json or .csv");
    EXPECT_NE(error_of([] {
                  read_rows("no/such/file.jsonl");
              }).find("no/such/file.jsonl: the data file cannot be read"),
              std::string::npos);
}

TEST(Rows, AnErrorOfTheDiskIsNotTheEndOfTheFile) {
    const TempFolder folder;
    for (const char* name : {"rows.jsonl", "rows.json", "rows.csv"}) {
        const std::string path = (folder.path() / name).string();
        std::filesystem::create_symlink("/proc/self/mem", path);  // has nothing at 0: EIO
        try {
            read_rows(path);
            ADD_FAILURE() << name << ": read";
        } catch (const SystemError& error) {
            EXPECT_EQ(error.code(), ExitCode::kIo);
            EXPECT_EQ(std::string(error.what()), "reading " + path + ": Input/output error");
        }
    }
}

TEST(Format, ColumnsDecide) {
    const auto detect = [](const std::string& json) {
        return std::string(name_of(detect_format(row_of(json).columns, {}, "x")));
    };
    EXPECT_EQ(detect(R"({"messages":[]})"), "messages");
    EXPECT_EQ(detect(R"({"prompt":"","completion":"","text":""})"), "prompt-completion");
    EXPECT_EQ(detect(R"({"instruction":"","input":"","output":"","text":""})"), "instruction");
    EXPECT_EQ(detect(R"({"conversations":[]})"), "sharegpt");
    EXPECT_EQ(detect(R"({"text":""})"), "text");
    EXPECT_EQ(detect(R"({"input_ids":[]})"), "tokenized");
    EXPECT_EQ(detect(R"({"prompt":"","chosen":"","rejected":""})"), "preference");
    EXPECT_EQ(detect(R"({"chosen":[],"rejected":[],"score":1})"), "preference");
    EXPECT_EQ(detect(R"({"text":"","rejected":true})"), "text");
    for (const char* name : {"auto", "messages", "prompt-completion", "instruction", "sharegpt",
                             "text", "template", "tokenized", "preference"}) {
        EXPECT_STREQ(name_of(parse_row_format(name)), name);
    }
    EXPECT_NE(error_of([] { parse_row_format("alpaca"); }).find("expected one of: auto, messages"),
              std::string::npos);
}

TEST(Format, ErrorsNameTheColumnsFound) {
    EXPECT_EQ(format_error(R"({"prompt":"a","answer":"b"})"),
              "train.jsonl:7: column \"completion\" is missing (found: prompt, answer). Set "
              "data.format, or rename the column.");
    EXPECT_NE(format_error(R"({"question":"a","answer":"b"})")
                  .find("no known columns (found: question, answer)"),
              std::string::npos);
    EXPECT_EQ(format_error(R"({"text":3})"),
              "train.jsonl:7: column \"text\" is not text but int64");
    EXPECT_NE(
        format_error(R"({"messages":[{"content":"x"}]})").find("has no \"role\" (found: content)"),
        std::string::npos);
    EXPECT_NE(format_error(R"({"messages":"x"})").find("must be a list of messages"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"messages":[3]})").find("has no \"role\" (found: int64)"),
              std::string::npos);
    EXPECT_NE(
        format_error(R"({"conversations":[{"from":"bird","value":"x"}]})").find("from \"bird\""),
        std::string::npos);
    EXPECT_NE(format_error(R"({"input_ids":[1,-1]})").find("has -1, expected integers from 0"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"input_ids":[1,2],"labels":[1]})").find("1 labels for 2 input_ids"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"input_ids":[1,2],"labels":[1,-5]})").find("a label is -5"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"input_ids":[4294967296]})").find("4294967296"), std::string::npos);
    EXPECT_NE(format_error(R"({"a":"x"})", {RowFormat::kAuto, "{a} {b}", "a"})
                  .find("column \"b\" is missing (found: a)"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"a":"x"})", {RowFormat::kAuto, "{a", "a"}).find("single {"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"a":"x"})", {RowFormat::kTemplate, "", "a"})
                  .find("data.template is not set"),
              std::string::npos);
}

TEST(Format, BadPreferencesAreNamed) {
    EXPECT_EQ(format_error(R"({"prompt":"a","chosen":"b"})"),
              "train.jsonl:7: column \"rejected\" is missing (found: prompt, chosen). Set "
              "data.format, or rename the column.");
    EXPECT_NE(
        format_error(R"({"prompt":"a","chosen":"b","rejected":[]})").find("must both be texts"),
        std::string::npos);
    EXPECT_NE(format_error(R"({"prompt":[],"chosen":"b","rejected":"c"})")
                  .find("column \"prompt\" must be a text"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"chosen":[],"rejected":[]})").find("list of messages"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"chosen":[{"role":"assistant","content":"a"}],
                               "rejected":[{"role":"assistant","content":"b"}]})")
                  .find("do not begin with the same message"),
              std::string::npos);
    EXPECT_NE(format_error(R"({"chosen":3,"rejected":"b"})").find("\"chosen\" is not text"),
              std::string::npos);
}

TEST(Format, PreferencesBecomeTwoAnswersToOnePrompt) {
    const auto texts = [](const std::string& json) {
        const auto example = std::get<PreferenceExample>(interpret_row(row_of(json), {}));
        const auto chosen = std::get<PromptExample>(example.chosen),
                   rejected = std::get<PromptExample>(example.rejected);
        EXPECT_EQ(chosen.prompt, rejected.prompt);
        return std::vector<std::string>{chosen.prompt, chosen.completion, rejected.completion};
    };
    using Texts = std::vector<std::string>;
    EXPECT_EQ(texts(R"({"prompt":"The sky is","chosen":" blue.","rejected":" green."})"),
              (Texts{"The sky is", " blue.", " green."}));
    // Without a prompt it is what both begin with, as TRL's extract_prompt has it.
    EXPECT_EQ(texts(R"({"chosen":"The sky is blue.","rejected":"The sky is green."})"),
              (Texts{"The sky is", " blue.", " green."}));
    EXPECT_EQ(texts(R"({"chosen":"ab","rejected":"abc"})"), (Texts{"a", "b", "bc"}));
    EXPECT_EQ(texts(R"({"chosen":"né","rejected":"nè"})"), (Texts{"n", "é", "è"}));
    const auto chats = [](const std::string& json) {
        const auto example = std::get<PreferenceExample>(interpret_row(row_of(json), {}));
        const auto chosen = std::get<ChatExample>(example.chosen),
                   rejected = std::get<ChatExample>(example.rejected);
        EXPECT_EQ(chosen.prompt_count, rejected.prompt_count);
        EXPECT_TRUE(chosen.variables.contains("tools"));
        return fmt::format("{} {} {}", chosen.prompt_count, boost::json::serialize(chosen.messages),
                           boost::json::serialize(rejected.messages));
    };
    const std::string user = R"({"role":"user","content":"u"})",
                      a = R"({"role":"assistant","content":"a"})",
                      b = R"({"role":"assistant","content":"b"})";
    const std::string want = fmt::format("1 [{0},{1}] [{0},{2}]", user, a, b);
    const std::string implicit =
        fmt::format(R"("chosen":[{0},{1}],"rejected":[{0},{2}],"tools":[])", user, a, b);
    EXPECT_EQ(chats("{" + implicit + "}"), want);
    EXPECT_EQ(chats(R"({"prompt":"u",)" + implicit + "}"), want);
    EXPECT_EQ(chats(fmt::format(R"({{"prompt":[{}],"chosen":[{}],"rejected":[{}],"tools":[]}})",
                                user, a, b)),
              want);
}

TEST(Format, RowsBecomeExamples) {
    const auto alpaca = std::get<PromptExample>(
        interpret_row(row_of(R"({"instruction":"Add","input":"1 2","output":"3"})"), {}));
    EXPECT_EQ(alpaca.prompt,
              "Below is an instruction that describes a task, paired with an input that provides "
              "further context. Write a response that "
              "appropriately completes the request.\n\n### Instruction:\nAdd\n\n### Input:\n1 "
              "2\n\n### Response:\n");
    EXPECT_EQ(alpaca.completion, "3");
    EXPECT_EQ(std::get<PromptExample>(
                  interpret_row(row_of(R"({"instruction":"Sing","input":"","output":"la"})"), {}))
                  .prompt,
              "Below is an instruction that describes a task. Write a response that appropriately "
              "completes the request.\n\n### "
              "Instruction:\nSing\n\n### Response:\n");
    const auto filled = std::get<PromptExample>(
        interpret_row(row_of(R"({"text":"t","n":3,"masked":"m"})"),
                      {RowFormat::kAuto, "Mask {{x}}: {text} {n}\n", "masked"}));
    EXPECT_EQ(filled.prompt, "Mask {x}: t 3\n");
    EXPECT_EQ(filled.completion, "m");
    const auto shared = std::get<ChatExample>(interpret_row(
        row_of(
            R"({"conversations":[{"from":"system","value":"s"},{"from":"human","value":"h"},{"from":"gpt","value":"g"}]})"),
        {}));
    EXPECT_EQ(
        boost::json::serialize(shared.messages),
        R"([{"role":"system","content":"s"},{"role":"user","content":"h"},{"role":"assistant","content":"g"}])");
}
