#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "io/chat/template.h"

using namespace qshard;

namespace {

std::string render(const std::string& source, const boost::json::object& variables = {}) {
    return ChatTemplate::parse(source, "models/x").render({}, false, variables).text;
}

std::string error_of(const std::string& source, const boost::json::object& variables = {}) {
    try {
        render(source, variables);
    } catch (const UserError& error) {
        return error.what();
    }
    return "no error";
}

std::string repeated(const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
}

}  // namespace

TEST(ChatTemplate, ErrorsNameTheTemplateAndTheLine) {
    EXPECT_EQ(
        error_of("a\nb\n{% if x %}"),
        "chat template of models/x, line 3: expected {% endif %}, found the end of the template");
    EXPECT_EQ(
        error_of("\n{{ raise_exception('Roles must alternate') }}"),
        "chat template of models/x, line 2: it refuses this conversation: Roles must alternate");
    EXPECT_EQ(error_of("{% for m in [1] %}\n\n{{ m.a.b }}{% endfor %}"),
              "chat template of models/x, line 3: 'int object' has no attribute 'a'");
    EXPECT_EQ(error_of("{{ x.y }}"), "chat template of models/x, line 1: 'x' is undefined");
    EXPECT_EQ(error_of("{{ 1 | nope }}"),
              "chat template of models/x, line 1: unknown or unsupported filter 'nope'");
    EXPECT_NE(error_of("{% include 'x' %}").find("unknown or unsupported tag 'include'"),
              std::string::npos);
}

TEST(ChatTemplate, GenerationSpansAreByteRanges) {
    const auto chat = ChatTemplate::parse(
        "é{% for m in messages %}{% generation %}{{ m }}ü{% endgeneration %}.{% endfor %}", "x");
    EXPECT_TRUE(chat.has_generation_blocks());
    const auto rendered = chat.render({"a", "世"}, false, {});
    EXPECT_EQ(rendered.text, "éaü.世ü.");
    ASSERT_EQ(rendered.generation_spans.size(), 2u);
    EXPECT_EQ(rendered.generation_spans[0], (std::pair<std::size_t, std::size_t>{2, 5}));
    EXPECT_EQ(rendered.generation_spans[1], (std::pair<std::size_t, std::size_t>{6, 11}));
    EXPECT_FALSE(ChatTemplate::parse("x", "x").has_generation_blocks());
    EXPECT_NE(error_of("{% macro m() %}{% generation %}x{% endgeneration %}{% endmacro %}{{ m() }}")
                  .find("inside a macro"),
              std::string::npos);
}

TEST(ChatTemplate, ClockIsPinnedForever) {
    auto chat = ChatTemplate::parse("{{ strftime_now('%d %b %Y') }}", "x");
    EXPECT_TRUE(chat.uses_clock());
    chat.pin_clock(1721952000);
    EXPECT_EQ(chat.render({}, false, {}).text, "26 Jul 2024");
    EXPECT_FALSE(ChatTemplate::parse("{{ now }}", "x").uses_clock());
}

TEST(ChatTemplate, GenerationPromptAndVariablesAreSeen) {
    const auto chat = ChatTemplate::parse(
        "{{ bos_token }}{{ messages|length }}{% if add_generation_prompt %}>{% endif %}", "x");
    EXPECT_EQ(chat.render({1, 2}, true, {{"bos_token", "<s>"}}).text, "<s>2>");
    EXPECT_EQ(chat.render({}, false, {}).text, "0");
}

TEST(ChatTemplate, NumbersBeyondTheRangeOfDoubles) {
    EXPECT_EQ(render("{{ 1e999 }} {{ 4e-400 }} {{ 1e-320|round(3) }}"), "inf 0.0 0.0");
}

TEST(ChatTemplate, NestingIsLimited) {
    EXPECT_NE(error_of("{{ " + repeated("(", 100000) + repeated(")", 100000) + "}}")
                  .find("nested deeper"),
              std::string::npos);
    EXPECT_NE(error_of("{{ " + repeated("not ", 100000) + "1 }}").find("nested deeper"),
              std::string::npos);
    EXPECT_NE(error_of("{{ " + repeated("-", 100000) + "1 }}").find("nested deeper"),
              std::string::npos);
    EXPECT_NE(error_of(repeated("{% if 1 %}", 10000)).find("nested deeper"), std::string::npos);
    EXPECT_NE(error_of("{% if 0 %}" + repeated("{% elif 0 %}", 10000)).find("nested deeper"),
              std::string::npos);
    EXPECT_NE(error_of("{{ 1" + repeated(" + 1", 100000) + " }}").find("operators in a row"),
              std::string::npos);
    EXPECT_NE(error_of("{{ 1" + repeated("|abs", 100000) + " }}").find("operators in a row"),
              std::string::npos);
    EXPECT_NE(error_of("{{ a" + repeated(".a", 100000) + " }}").find("operators in a row"),
              std::string::npos);
    EXPECT_NE(error_of("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").find("recurses"),
              std::string::npos);
    EXPECT_NE(error_of("{% set n = namespace(l=[]) %}{% for i in range(90000) %}{% set n.l = [n.l] "
                       "%}{% endfor %}")
                  .find("nested deeper"),
              std::string::npos);
    boost::json::value deep = 1;
    for (int i = 0; i < 200; ++i) deep = boost::json::array{deep};
    EXPECT_NE(error_of("x", {{"deep", deep}}).find("nested deeper"), std::string::npos);
    EXPECT_EQ(render("{% for i in range(1000) %}{% if i == 999 %}" + repeated("(", 50) + "{{ " +
                     repeated("(", 20) + "i" + repeated(")", 20) + " }}{% endif %}{% endfor %}"),
              repeated("(", 50) + "999");
}

TEST(ChatTemplate, WorkAndMemoryAreLimited) {
    const auto loops = [](int depth, const std::string& body) {
        return repeated("{% for i in range(1000) %}", depth) + body +
               repeated("{% endfor %}", depth);
    };
    EXPECT_NE(error_of(loops(4, "")).find("steps"), std::string::npos);
    EXPECT_NE(error_of(loops(3, "{{ messages }}")).find("steps"), std::string::npos);
    EXPECT_NE(error_of("{% set n = namespace(s='ab') %}" + loops(1, "{% set n.s = n.s ~ n.s %}"))
                  .find("larger than"),
              std::string::npos);
    EXPECT_NE(error_of("{% set n = namespace(s='ab') %}" + loops(1, "{% set n.s = n.s + n.s %}"))
                  .find("larger than"),
              std::string::npos);
    EXPECT_NE(error_of("{% set n = namespace(l=[1]) %}" + loops(1, "{% set n.l = n.l + n.l %}"))
                  .find("steps"),
              std::string::npos);
    EXPECT_NE(error_of("{{ 'x' * 1000000000000 }}").find("too large"), std::string::npos);
    EXPECT_NE(error_of("{{ [0] * 1000000000000 }}").find("too large"), std::string::npos);
    EXPECT_NE(error_of("{{ ('a' * 1000000).replace('a', 'b' * 1000) }}").find("too large"),
              std::string::npos);
    EXPECT_NE(error_of("{{ ('a' * 1000000)|list|join('b' * 1000) }}").find("too large"),
              std::string::npos);
    EXPECT_NE(error_of("{{ '7'.zfill(1000000000) }}").find("too large"), std::string::npos);
    // A value of a few bytes whose print would take 2^60.
    const std::string shared =
        "{% set n = namespace(l=[0]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor "
        "%}";
    EXPECT_NE(error_of(shared + "{{ n.l }}").find("larger than"), std::string::npos);
    EXPECT_NE(error_of(shared + "{{ n.l|tojson }}").find("larger than"), std::string::npos);
    EXPECT_NE(error_of(shared + "{{ n.l == n.l }}").find("steps"), std::string::npos);
    EXPECT_NE(error_of(shared + "{{ [n.l, n.l]|sort }}").find("steps"), std::string::npos);
    EXPECT_NE(error_of("{{ 9223372036854775807 + 1 }}").find("64 bits"), std::string::npos);
    EXPECT_NE(error_of("{{ 10 ** 100 }}").find("64 bits"), std::string::npos);
    EXPECT_NE(error_of("{{ 99999999999999999999 }}").find("64-bit"), std::string::npos);
    EXPECT_EQ(render("{{ (-9223372036854775807 - 1) % -1 }}"), "0");
    EXPECT_EQ(
        render("{{ l[::9223372036854775807] }}{{ l[::-9223372036854775807] }}", {{"l", {1, 2, 3}}}),
        "[1][3]");
}

TEST(ChatTemplate, TheSandboxHoldsAndCyclesDoNotLeak) {
    EXPECT_NE(error_of("{{ [].append(1) }}").find("may not"), std::string::npos);
    EXPECT_NE(error_of("{{ {}.update({}) }}").find("may not"), std::string::npos);
    EXPECT_EQ(render("{{ ''.__class__ }}{{ {}.__init__ }}"), "");
    EXPECT_EQ(render("{% set n = namespace() %}{% set n.self = n %}{% set n.l = [n] %}{{ "
                     "n.self.l|length }}"),
              "1");
    // A macro and a loop may outlive the block that made them.
    EXPECT_EQ(render("{% set n = namespace() %}{% for i in [1, 2] %}{% macro m() %}{{ i }}{% "
                     "endmacro %}{% set n.m = m %}"
                     "{% set n.loop = loop %}{% endfor %}{% for i in [5] %}{{ n.m() }}{% endfor "
                     "%}{{ n.loop.length }}"),
              "22");
}

TEST(ChatTemplate, BytesThatAreNotATemplateAreRefused) {
    EXPECT_NE(error_of("\xff").find("expected UTF-8"), std::string::npos);
    EXPECT_NE(error_of(std::string(2'000'000, 'x')).find("at most"), std::string::npos);
    // Every prefix and every one-byte damage of a template ends with text or a UserError.
    const std::string source =
        "{%- for m in messages[::-1] if m.a is defined %}{{ m['a']|trim ~ \"\\n\" }}{# c #}{% else "
        "%}{% raw %}{{{% endraw %}{% endfor %}";
    for (std::size_t i = 0; i <= source.size(); ++i) {
        EXPECT_NE(error_of(source.substr(0, i)), "");
        for (const char damage : {'\0', '{', '%', '}', '"', '\\', '('}) {
            std::string broken = source;
            if (i < source.size()) broken[i] = damage;
            EXPECT_NE(error_of(broken), "");
        }
    }
}
