#include "data_test.h"
#include "io/data/conversation.h"
#include "io/data/encode.h"

using namespace qshard;
using namespace qshard::test;
namespace json = boost::json;

namespace {

const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Prints of each message its role, content and calls, and the tools first.
const char* kCalls =
    "{% if tools %}T{{ tools | tojson }};{% endif %}{% for m in messages %}{{ m.role }}:"
    "{{ m.content }}{% if 'tool_calls' in m %}{% for c in m.tool_calls %}{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endif %};{% endfor %}";

DataRow row_of(const std::string& text) {
    return {json::parse(text).as_object(), "train.jsonl:7"};
}

/// The text that the template makes of a row.
std::string text_of(const std::string& row, const char* source = kCalls) {
    const auto chat = ChatTemplate::parse(source, "models/x");
    const auto example = std::get<ChatExample>(interpret_row(row_of(row), {}));
    const Conversation conversation(chat, example, {{"eos_token", "</s>"}});
    return conversation.render(conversation.count(), false).text;
}

RowEncoder::Outcome encode(const std::string& row, const char* source = kChatMl,
                           bool loss_on_all = false) {
    const ByteEncoder tokenizer;
    const auto chat = ChatTemplate::parse(source, "models/x");
    EncodeOptions options;
    options.loss_on_all = loss_on_all;
    options.chat_variables = {{"eos_token", "</s>"}};
    return RowEncoder(tokenizer, &chat, options).encode(row_of(row));
}

std::string trained(const std::string& row, const char* source = kChatMl, bool all = false) {
    return ByteEncoder::trained_text(*encode(row, source, all).row);
}

std::string failure(const std::string& row, const char* source = kChatMl, bool all = false) {
    return error_of([&] { encode(row, source, all); });
}

/// A row of one question and its answer with more members.
std::string row_with(const std::string& more, const std::string& answer = R"("content":"A")",
                     const std::string& question = R"("content":"Q")") {
    return fmt::format(R"({{"messages":[{{"role":"user",{}}},{{"role":"assistant",{}}}]{}{}}})",
                       question, answer, more.empty() ? "" : ",", more);
}

}  // namespace

TEST(Conversation, NullMembersAreAbsent) {
    const std::string plain = "user:Q;assistant:A;";
    EXPECT_EQ(text_of(row_with("")), plain);
    EXPECT_EQ(text_of(row_with(R"("tools":null,"documents":null,"chat_template_kwargs":null)",
                               R"("content":"A","tool_calls":null,"name":null)")),
              plain);
    EXPECT_EQ(text_of(row_with("", R"("content":null)")), "user:Q;assistant:;");
    // Further inside, null is a value: transformers prints it.
    EXPECT_EQ(
        text_of(row_with(
            "",
            R"("content":null,"tool_calls":[{"function":{"name":"f","arguments":{"a":null}}}])")),
        "user:Q;assistant:f{\"a\": null};");
}

TEST(Conversation, ToolsAndArgumentsMayBeJsonText) {
    const std::string want = "T[{\"name\": \"t\"}];user:Q;assistant:f{\"a\": 1.0, \"b\": []};";
    const std::string
        object = R"("tool_calls":[{"function":{"name":"f","arguments":{"a":1.0,"b":[]}}}])",
        text = R"("tool_calls":[{"function":{"name":"f","arguments":"{\"a\":1.0, \"b\": []}"}}])";
    EXPECT_EQ(text_of(row_with(R"("tools":[{"name":"t"}])", object)), want);
    EXPECT_EQ(text_of(row_with(R"("tools":"[{\"name\":\"t\"}]")", text)), want);
    EXPECT_EQ(text_of(row_with(R"("tools":"")")), "user:Q;assistant:A;");
    EXPECT_EQ(text_of(row_with(R"("functions":[{"name":"t"}])")),
              "T[{\"type\": \"function\", \"function\": {\"name\": \"t\"}}];user:Q;assistant:A;");
    for (const char* bad :
         {R"("tools":"weather")", R"("tools":["weather"])", R"("tools":{"a":1})", R"("tools":3)"}) {
        EXPECT_NE(failure(row_with(bad)).find("train.jsonl:7: column \"tools\""), std::string::npos)
            << failure(row_with(bad));
    }
    EXPECT_NE(
        failure(row_with("", R"("tool_calls":[{"function":{"name":"f","arguments":"{a"}}])"))
            .find("message 2 of \"messages\": \"arguments\" of a tool call must be an object"),
        std::string::npos);
    // A template that adds arguments to text is given text.
    EXPECT_EQ(text_of(row_with("", object),
                      "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ '=' + "
                      "c.function.arguments }}{% endfor %}{% endfor %}"),
              "={\"a\": 1.0, \"b\": []}");
}

TEST(Conversation, CallsOfOtherToolsBecomeToolCalls) {
    const std::string want = "user:Q;assistant:f{\"a\": 1};tool:r;";
    EXPECT_EQ(
        text_of(
            R"({"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\":1}"}},{"role":"function","content":"r"}]})"),
        want);
    EXPECT_EQ(
        text_of(
            R"({"conversations":[{"from":"human","value":"Q"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"a\":1}}"},{"from":"observation","value":"r"}]})"),
        want);
}

TEST(Conversation, ReasoningHasThreeNames) {
    const char* source =
        "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}";
    for (const char* name : {"reasoning_content", "reasoning", "thinking"}) {
        EXPECT_EQ(text_of(row_with("", fmt::format(R"("content":"A","{}":"so")", name)), source),
                  "soso");
    }
}

TEST(Conversation, PartsAreJoinedWhereTheTemplateTakesText) {
    const std::string row =
        row_with("", R"("content":"A")",
                 R"("content":[{"type":"text","text":"a"},{"type":"text","text":"b"}])");
    EXPECT_EQ(text_of(row), "user:ab;assistant:A;");
    EXPECT_EQ(text_of(row, kChatMl),
              "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n");
    EXPECT_EQ(text_of(row,
                      "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% "
                      "else %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% "
                      "endfor %}"),
              "(a)(b)A");
    EXPECT_NE(failure(row_with("", R"("content":[{"type":"image_url","image_url":"x"}])"))
                  .find("message 2 of \"messages\": \"content\" has a part of type \"image_url\""),
              std::string::npos);
    EXPECT_NE(failure(row_with(R"("images":["a.png"])")).find("column \"images\": models are"),
              std::string::npos);
    EXPECT_EQ(failure(row_with(R"("images":[],"videos":null)")), "no error");
}

TEST(Conversation, DeveloperIsTheSystemWhereTheTemplateDoesNotPrintIt) {
    const std::string row =
        R"({"messages":[{"role":"developer","content":"D"},{"role":"user","content":"Q"}]})";
    EXPECT_EQ(text_of(row), "developer:D;user:Q;");
    EXPECT_EQ(text_of(row,
                      "{% for m in messages %}{% if m.role in ['system', 'user'] %}{{ m.role "
                      "}}:{{ m.content }};{% endif %}{% endfor %}"),
              "system:D;user:Q;");
}

TEST(Conversation, ErrorsNameTheMessageAndItsContent) {
    EXPECT_NE(failure(row_with("", R"("content":null)"))
                  .find("(message 2, assistant: its content is null)"),
              std::string::npos);
    EXPECT_NE(failure(row_with("", R"("content":4)")).find("assistant: its content is a number)"),
              std::string::npos);
    EXPECT_NE(failure(row_with("", R"("content":{"a":1})")).find("its content is an object)"),
              std::string::npos);
    EXPECT_NE(
        failure(row_with("", R"("text":"A")")).find("message 2, assistant: it has no content"),
        std::string::npos);
}

TEST(Conversation, NamedTemplatesAreChosenByTools) {
    const auto chat = ChatTemplate::parse_named(
        {{"default", "plain"}, {"tool_use", "with tools"}, {"rag", "{% broken"}}, "models/x");
    EXPECT_EQ(chat.chosen(false).source(), "plain");
    EXPECT_EQ(chat.chosen(true).source(), "with tools");
    const auto none = ChatTemplate::parse_named({{"rag", "r"}, {"tool_use", "t"}}, "models/x");
    EXPECT_EQ(none.chosen(true).source(), "t");
    EXPECT_NE(error_of([&] { none.chosen(false); })
                  .find("models/x has several chat templates (rag, "
                        "tool_use) and none is the default"),
              std::string::npos);
    EXPECT_FALSE(none.has_generation_blocks());
}

TEST(Turns, RowsTakeTheLossOfTurnsAway) {
    const auto conversation = [](const std::string& first, const std::string& more) {
        return fmt::format(
            R"({{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":"b"{}}},{{"role":"user","content":"c"}},{{"role":"assistant","content":"d"}}]{}}})",
            first, more);
    };
    const std::string both = "·b<|im_end|>\n·d<|im_end|>\n", last = "·d<|im_end|>\n";
    EXPECT_EQ(trained(conversation("", "")), both);
    for (const char* member : {R"(,"weight":0)", R"(,"weight":0.0)", R"(,"train":false)",
                               R"(,"training":false)", R"(,"loss":false)"}) {
        EXPECT_EQ(trained(conversation(member, "")), last) << member;
    }
    for (const char* member : {R"(,"weight":1)", R"(,"train":true)", R"(,"weight":null)"})
        EXPECT_EQ(trained(conversation(member, "")), both) << member;
    EXPECT_EQ(trained(conversation("", R"(,"loss_mask":[0,0,0,1])")), last);
    EXPECT_EQ(trained(conversation("", R"(,"loss_mask":"[0, 1, 0, 0]")")), "·b<|im_end|>\n·");
    // The text is the same, and all else is trained, too, where all is.
    const std::string all = trained(conversation(R"(,"weight":0)", ""), kChatMl, true);
    EXPECT_EQ(all,
              "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n·<|im_start|>user\nc<|im_end|>"
              "\n<|im_start|>assistant\nd<|im_end|>\n");
    const char* blocks =
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ "
        "m.content }}{% endgeneration %}{% generation %};{% endgeneration %}{% else %}{{ m.content "
        "}}{% endif %}{% endfor %}";
    EXPECT_EQ(trained(conversation(R"(,"weight":0)", ""), blocks), "·d;");
    EXPECT_NE(failure(conversation(R"(,"weight":0.5)", ""))
                  .find("message 2 of \"messages\": \"weight\" is 5E-1, expected 0 or 1"),
              std::string::npos);
    EXPECT_NE(failure(conversation(R"(,"train_detail":[{"begin_offset":0}])", ""))
                  .find("\"train_detail\": loss on parts"),
              std::string::npos);
    EXPECT_NE(failure(conversation("", R"(,"loss_mask":[1,1])")).find("2 entries for 4 messages"),
              std::string::npos);
    EXPECT_NE(failure(conversation("", R"(,"loss_mask":[1,1,1,1])"))
                  .find("message 1 (user) is to be trained by its row"),
              std::string::npos);
}

TEST(Turns, AGenerationPromptThatOpensMoreThanTurnsHaveIsSaid) {
    // As DeepSeek-R1-Distill: reasoning is opened for answers and cut out of the past.
    const char* source =
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + "
        "m.content.split('</think>')[-1] "
        "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
        "<think>\n' }}{% endif %}";
    const auto outcome = encode(row_with("", R"("content":"<think>so</think>A")"), source);
    EXPECT_EQ(ByteEncoder::trained_text(*outcome.row), "·A<|im_end|>\n");
    ASSERT_EQ(outcome.notes.remarks.size(), 1u);
    EXPECT_NE(outcome.notes.lines().back().find("generation prompt"), std::string::npos);
    EXPECT_TRUE(encode(row_with("")).notes.remarks.empty());
}

TEST(Turns, RolesThatNobodyLearnsAreSaid) {
    const auto outcome = encode(
        R"({"messages":[{"role":"user","content":"a"},{"role":"Assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]})");
    EXPECT_EQ(ByteEncoder::trained_text(*outcome.row), "·d<|im_end|>\n");
    ASSERT_EQ(outcome.notes.lines().size(), 1u);
    EXPECT_NE(outcome.notes.lines().back().find("role \"Assistant\" carry no loss"),
              std::string::npos);
}

TEST(Turns, EarlierAnswersMayBePrintedOtherwise) {
    // As Qwen3.5: the calls of the last question keep their reasoning, those before lose it.
    const char* source =
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set "
        "ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}<{{ m.role }}>{% if "
        "m.role == 'assistant' and loop.index0 > ns.last %}<think>{% endif %}{{ m.content }};{% "
        "endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}";
    const auto outcome = encode(
        R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"tool","content":"c"},{"role":"assistant","content":"d"},{"role":"user","content":"e"},{"role":"assistant","content":"f"}]})",
        source);
    EXPECT_EQ(ByteEncoder::trained_text(*outcome.row), "·b;·d;·f;");
    EXPECT_EQ(outcome.notes.remarks.size(), 1u);
}

TEST(Turns, LastTurnsMayEndWithAnotherMark) {
    // As GPT-OSS: <|return|> at the end, <|end|> before.
    const char* source =
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if loop.last %}!{% else %}.{% "
        "endif "
        "%}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    EXPECT_EQ(
        trained(
            R"({"messages":[{"role":"assistant","content":"a"},{"role":"tool","content":"b"},{"role":"assistant","content":"c"}]})",
            source),
        "·a.·c!");
}

TEST(RowKeys, WhatNothingReadsIsNamed) {
    const auto outcome =
        encode(row_with(R"("id":3,"source":"web","empty":"","chat_template_kwargs":{"mood":1})",
                        R"("content":"A","mood":"x","reasoning":"so","refusal":null)"));
    EXPECT_EQ(outcome.notes.lines(),
              (std::vector<std::string>{
                  "columns that nothing reads: id, messages.mood, messages.reasoning, mood, source "
                  "(1 row)"}));
    RowNotes sum = outcome.notes;
    sum.add(encode(row_with(R"("id":4)")).notes);
    EXPECT_EQ(sum.lines().front(), "columns that nothing reads: id (2 rows)");
    EXPECT_TRUE(encode(row_with("")).notes.lines().empty());
}

TEST(RowKeys, WhatMeansSomethingElsewhereIsRefused) {
    EXPECT_NE(
        failure(R"({"text":"a","system":"s"})")
            .find("train.jsonl:7: column \"system\" (the first turn of a conversation) has no "
                  "meaning for this kind of row"),
        std::string::npos);
    EXPECT_EQ(failure(R"({"text":"a","system":"","history":[]})"), "no error");
    EXPECT_NE(
        failure(R"({"text":"a","segments":[{"label":true,"text":"x"}]})").find("input_output"),
        std::string::npos);
    EXPECT_NE(failure(row_with(R"("label":false)")).find("column \"label\""), std::string::npos);
    EXPECT_EQ(failure(R"({"text":"a","label":3})"), "no error");
    EXPECT_NE(failure(row_with(R"("chat_template_kwargs":{"add_generation_prompt":true})"))
                  .find("has \"add_generation_prompt\", which is no variable"),
              std::string::npos);
    EXPECT_NE(failure(R"({"prompt":[{"role":"user","content":"Q"}],"completion":"A"})")
                  .find("\"prompt\" is a list of messages and \"completion\" is text"),
              std::string::npos);
}

TEST(RowKeys, SystemAndHistoryBecomeTurns) {
    EXPECT_EQ(
        text_of(
            R"({"instruction":"I","input":"N","output":"O","system":"S","history":[["u","a"]]})"),
        "system:S;user:u;assistant:a;user:I\nN;assistant:O;");
    EXPECT_EQ(text_of(R"({"instruction":"I","input":"","output":"O","system":null})"),
              "user:I;assistant:O;");
    EXPECT_EQ(text_of(R"({"conversations":[{"from":"human","value":"Q"}],"system":"S"})"),
              "system:S;user:Q;");
    EXPECT_NE(failure(R"({"messages":[{"role":"system","content":"x"}],"system":"S"})")
                  .find("keep one of them"),
              std::string::npos);
    EXPECT_EQ(text_of(R"({"conversations":[{"role":"user","content":"Q"}]})"), "user:Q;");
    EXPECT_EQ(text_of(R"({"messages":[{"from":"gpt","value":"A"}]})"), "assistant:A;");
    EXPECT_EQ(text_of(R"({"messages":"[{\"role\": \"user\", \"content\": \"Q\"}]"})"), "user:Q;");
}

TEST(RowKeys, MasksOfTokensTakeTheirLabels) {
    const auto labels = [](const std::string& more) {
        return encode(R"({"input_ids":[1,2,3])" + more + "}").row->labels;
    };
    using Labels = std::vector<std::int32_t>;
    EXPECT_EQ(labels(R"(,"completion_mask":[0,1,1],"attention_mask":[1,1,1])"),
              (Labels{-100, 2, 3}));
    EXPECT_EQ(labels(R"(,"assistant_masks":[0,0,1],"completion_mask":[0,1,1])"),
              (Labels{-100, -100, 3}));
    EXPECT_NE(failure(R"({"input_ids":[1,2],"attention_mask":[1,0]})").find("not padded"),
              std::string::npos);
    EXPECT_NE(failure(R"({"input_ids":[1,2],"position_ids":[0,0]})").find("does not count from 0"),
              std::string::npos);
}

TEST(RowKeys, RowsHaveWeights) {
    EXPECT_EQ(encode(row_with(R"("weight":2.5)")).weight, 2.5);
    const auto none = encode(row_with(R"("weight":0)"));
    EXPECT_EQ(none.weight, 0);
    EXPECT_FALSE(none.row.has_value());
    EXPECT_EQ(encode(row_with("")).weight, 1);
    EXPECT_NE(failure(row_with(R"("weight":-1)")).find("is -1, expected a number from 0 to 1000"),
              std::string::npos);
}

TEST(Questions, AreWhatARowAsks) {
    const auto asked = [](const std::string& row) { return interpret_question(row_of(row)); };
    EXPECT_EQ(std::get<std::string>(asked(R"({"prompt":"Q"})").asked), "Q");
    const auto answered = asked(row_with(R"("tools":[{"name":"t"}])"));
    EXPECT_TRUE(answered.had_answer);
    EXPECT_EQ(answered.column, "messages");
    const auto& chat = std::get<ChatExample>(answered.asked);
    EXPECT_EQ(json::serialize(chat.messages), R"([{"role":"user","content":"Q"}])");
    EXPECT_TRUE(chat.variables.contains("tools"));
    EXPECT_NE(std::get<std::string>(asked(R"({"instruction":"I","output":"O"})").asked).find("I"),
              std::string::npos);
    EXPECT_NE(error_of([&] { asked(R"({"text":"x"})"); }).find("(found: text)"), std::string::npos);
    EXPECT_NE(error_of([&] { asked(R"({"prompt":"Q","images":["x"]})"); }).find("\"images\""),
              std::string::npos);
}
