#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "io/chat/template.h"

using namespace qshard;
namespace json = boost::json;

namespace {

json::value read_json(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return json::parse(text.str());
}

std::string string_of(const json::value& value) {
    return std::string(value.as_string());
}

/// Empty if our rendering is what jinja2 printed (or fails where jinja2 failed), else the
/// difference.
std::string difference(const std::string& source, const json::array& messages, bool generate,
                       const json::object& variables, const json::object& want) {
    std::string got;
    bool failed = false;
    std::vector<std::pair<std::size_t, std::size_t>> spans;
    try {
        const ChatTemplate::Rendered rendered =
            ChatTemplate::parse(source, "test").render(messages, generate, variables);
        got = rendered.text;
        spans = rendered.generation_spans;
    } catch (const UserError& error) {
        failed = true;
        got = error.what();
    }
    if (want.contains("error")) {
        return failed ? "" : "jinja2 fails: " + string_of(want.at("error")) + "\nwe print: " + got;
    }
    if (failed || got != string_of(want.at("text"))) {
        return "jinja2 prints: " + string_of(want.at("text")) + "\nwe " +
               (failed ? "fail: " : "print: ") + got;
    }
    const json::array& want_spans = want.at("spans").as_array();
    bool same = spans.size() == want_spans.size();
    for (std::size_t i = 0; same && i < spans.size(); ++i) {
        same = spans[i].first == want_spans[i].at(0).to_number<std::size_t>() &&
               spans[i].second == want_spans[i].at(1).to_number<std::size_t>();
    }
    return same ? "" : "other generation spans";
}

/// Runs a golden file of templates x conversations; the number of cases that differ.
void check_templates(const std::string& path) {
    const json::value golden = read_json(path);
    std::size_t cases = 0;
    for (const json::value& one : golden.at("templates").as_array()) {
        const std::string source = string_of(one.at("source"));
        for (const json::value& test : one.at("cases").as_array()) {
            const std::string conversation = string_of(test.at("conversation")),
                              variables = string_of(test.at("variables"));
            EXPECT_EQ(
                difference(source, golden.at("conversations").at(conversation).as_array(),
                           test.at("generate").as_bool(),
                           golden.at("variables").at(variables).as_object(), test.as_object()),
                "")
                << one.at("name") << " " << conversation << " " << variables << " "
                << test.at("generate");
            ++cases;
        }
    }
    EXPECT_GT(cases, 100u);
}

}  // namespace

TEST(ChatGolden, SnippetsPrintWhatJinja2Prints) {
    const json::value golden = read_json(QSHARD_TEST_DATA "/golden/chat/snippets.json");
    for (const json::value& test : golden.at("cases").as_array()) {
        const std::string source = string_of(test.at("source"));
        EXPECT_EQ(difference(source, golden.at("messages").as_array(), false,
                             golden.at("variables").as_object(), test.as_object()),
                  "")
            << source;
    }
    EXPECT_GT(golden.at("cases").as_array().size(), 500u);
}

TEST(ChatGolden, TemplatesPrintWhatJinja2Prints) {
    check_templates(QSHARD_TEST_DATA "/golden/chat/templates.json");
}

// Templates that are not ours to commit: `make.py --local OUT.json ...`.
TEST(ChatGolden, LocalTemplatesPrintWhatJinja2Prints) {
    const char* path = std::getenv("QSHARD_TEST_CHAT_GOLDEN");
    if (path == nullptr)
        GTEST_SKIP()
            << "set QSHARD_TEST_CHAT_GOLDEN to a file written by tests/golden/chat/make.py --local";
    check_templates(path);
}
