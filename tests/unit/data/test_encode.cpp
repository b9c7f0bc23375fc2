#include "data_test.h"
#include "io/data/encode.h"

using namespace qshard;
using namespace qshard::test;

namespace {

const char* kChatMl =
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ "
    "'<|im_start|>system\nS<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const char* kPhi =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}.{% endfor %}{% if add_generation_prompt "
    "%}<assistant>{% else %}{{ eos_token }}{% endif %}";
const char* kConversation =
    R"({"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello!"},{"role":"user","content":"2+2?"},{"role":"assistant","content":"4"}]})";

EncodeOptions options() {
    EncodeOptions made;
    made.bos_id = 300;
    made.eos_id = 301;
    made.chat_variables = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    return made;
}

DataRow row_of(const std::string& json) {
    return {boost::json::parse(json).as_object(), "train.jsonl:7"};
}

EncodedRow encode(const std::string& json, const EncodeOptions& made = options(),
                  const char* chat_source = kChatMl, bool adds_bos = false) {
    const ByteEncoder tokenizer(adds_bos);
    const ChatTemplate chat = ChatTemplate::parse(chat_source, "models/x");
    return *RowEncoder(tokenizer, &chat, made).encode(row_of(json)).row;
}

std::string trained(const std::string& json, const EncodeOptions& made = options(),
                    const char* chat = kChatMl, bool adds_bos = false) {
    return ByteEncoder::trained_text(encode(json, made, chat, adds_bos));
}

}  // namespace

TEST(Encode, PromptAndCompletionAreEncodedApart) {
    // Together, the two newlines would be one token.
    const EncodedRow row = encode(R"({"prompt":"Q\n","completion":"\nA"})");
    EXPECT_EQ(row.ids, (std::vector<std::int32_t>{'Q', '\n', '\n', 'A', 301}));
    EXPECT_EQ(row.labels, (std::vector<std::int32_t>{-100, -100, '\n', 'A', 301}));
    EXPECT_EQ(row.supervised(), 3);
    EXPECT_EQ(row.prompt(), (std::vector<std::int32_t>{'Q', '\n'}));
    EXPECT_EQ(row.completion(), (std::vector<std::int32_t>{'\n', 'A', 301}));
}

TEST(Encode, PairsShareTheirPrompt) {
    const ByteEncoder tokenizer;
    const ChatTemplate chat = ChatTemplate::parse(kChatMl, "models/x");
    const auto pair = [&](const std::string& json, EncodeOptions made = options()) {
        return RowEncoder(tokenizer, &chat, std::move(made)).encode(row_of(json));
    };
    const char* text = R"({"prompt":"Q\n","chosen":"yes","rejected":"n"})";
    EncodeOptions made = options();
    made.loss_on_all = true;  // of a pair the answers are compared, whatever is trained
    const EncodedPair plain = *pair(text, made).pair;
    EXPECT_EQ(ByteEncoder::trained_text(plain.chosen), "·yes</s>");
    EXPECT_EQ(ByteEncoder::trained_text(plain.rejected), "·n</s>");
    EXPECT_EQ(plain.chosen.prompt(), plain.rejected.prompt());
    EXPECT_EQ(plain.rejected.place, "train.jsonl:7");
    const EncodedPair talk = *pair(R"({"chosen":[{"role":"user","content":"Hi"},
        {"role":"assistant","content":"Hello!"}],"rejected":[{"role":"user","content":"Hi"},
        {"role":"assistant","content":"Go"}]})")
                                  .pair;
    EXPECT_EQ(ByteEncoder::trained_text(talk.chosen), "·Hello!<|im_end|>\n");
    EXPECT_EQ(ByteEncoder::trained_text(talk.rejected), "·Go<|im_end|>\n");
    EXPECT_EQ(talk.chosen.prompt(), talk.rejected.prompt());
    made.max_length = 5;
    const auto cut = pair(text, made);
    EXPECT_TRUE(cut.truncated);
    EXPECT_EQ(ByteEncoder::trained_text(cut.pair->chosen), "·yes");
    EXPECT_EQ(ByteEncoder::trained_text(cut.pair->rejected), "·n</s>");
    made.overlong = Overlong::kSkip;
    EXPECT_FALSE(pair(text, made).pair.has_value());
}

TEST(Encode, BosAndEosFollowTheOptions) {
    EncodeOptions made = options();
    EXPECT_EQ(trained(R"({"prompt":"Q","completion":"A"})", made, kChatMl, true), "·A</s>");
    EXPECT_EQ(encode(R"({"prompt":"Q","completion":"A"})", made, kChatMl, true).ids.front(), 300);
    EXPECT_EQ(encode(R"({"prompt":"Q","completion":"A"})", made, kChatMl, false).ids.front(), 'Q');
    made.add_bos = AddBos::kFalse;
    EXPECT_EQ(encode(R"({"prompt":"Q","completion":"A"})", made, kChatMl, true).ids.front(), 'Q');
    made.add_bos = AddBos::kTrue;
    EXPECT_EQ(encode(R"({"prompt":"Q","completion":"A"})", made, kChatMl, false).ids.front(), 300);
    made.append_eos = false;
    EXPECT_EQ(trained(R"({"text":"abc"})", made), "·abc");
    made.loss_on_all = true;
    EXPECT_EQ(trained(R"({"prompt":"Q","completion":"A"})", made), "<s>QA");
    made.bos_id = std::nullopt;
    EXPECT_NE(error_of([&] { encode("{}", made); }).find("the tokenizer has no BOS"),
              std::string::npos);
    EXPECT_EQ(trained(R"({"text":"abc"})"), "abc</s>");
}

TEST(Encode, ChatMlTrainsTheTurnItsMarkAndItsNewline) {
    EXPECT_EQ(trained(kConversation), "·Hello!<|im_end|>\n·4<|im_end|>\n");
    EncodeOptions all = options();
    all.loss_on_all = true;
    EXPECT_EQ(trained(kConversation, all).find("·"), std::string::npos);
    EXPECT_EQ(
        trained(
            R"({"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"completion":[{"role":"assistant","content":"d"}]})"),
        "·d<|im_end|>\n");
    EXPECT_EQ(encode(kConversation).supervised(), 6 + 2 + 1 + 2);
    // A conversation is not given BOS or EOS, whatever the options.
    EncodeOptions bos = options();
    bos.add_bos = AddBos::kTrue;
    EXPECT_EQ(encode(kConversation, bos).ids.front(), 256);
    EXPECT_EQ(encode(kConversation, bos).ids.back(), '\n');
}

TEST(Encode, TokensThatTouchTheTurnAreTrained) {
    // "assistant\n" and "\nx" share the token of two newlines.
    EXPECT_EQ(
        trained(
            R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"\nx"}]})"),
        "·\n\nx<|im_end|>\n");
}

TEST(Encode, GenerationBlocksDecideWhereTheyAre) {
    const char* chat =
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ "
        "m.content }};{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}";
    EXPECT_EQ(trained(kConversation, options(), chat), "·Hello!;·4;");
    EXPECT_EQ(
        trained(
            R"({"messages":[{"role":"assistant","content":"é世"},{"role":"user","content":"x"}]})",
            options(), chat),
        "·é世;·");
}

TEST(Encode, EosAtTheEndOfEveryConversationIsUnderstood) {
    EXPECT_EQ(trained(kConversation, options(), kPhi), "·Hello!.·4.</s>");
}

TEST(Encode, TurnsThatArePrintedOtherwiseOnceMoreFollowsAreTrainedAsPrinted) {
    // As Qwen3's: earlier turns lose their thinking, the last one gets an empty one.
    const char* chat =
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think>"
        "</think>{% endif %}{{ m.content.split('</think>')[-1] }};\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}";
    EXPECT_EQ(trained(kConversation, options(), chat), "·Hello!;\n·<think></think>4;\n");
    EXPECT_EQ(
        trained(
            R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"<think>x</think>b;"},{"role":"user","content":"b;"},{"role":"assistant","content":"c"}]})",
            options(), chat),
        "·b;;\n·<think></think>c;\n");
}

TEST(Encode, TemplatesThatRewriteThePastAreRefused) {
    const char* chat =
        "{% for m in messages %}<{{ m.role }}>{% if loop.last %}<think>{% endif %}{{ m.content "
        "}}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    const std::string error = error_of([&] { encode(kConversation, options(), chat); });
    EXPECT_NE(error.find("train.jsonl:7: the chat template of models/x prints"), std::string::npos)
        << error;
    EXPECT_NE(error.find("data.loss_on"), std::string::npos);
    EXPECT_NE(error_of([&] {
                  encode(kConversation, options(), "{{ raise_exception('never') }}");
              }).find("train.jsonl:7: chat template of models/x, line 1: it refuses"),
              std::string::npos);
    const ByteEncoder tokenizer;
    EXPECT_NE(error_of([&] {
                  RowEncoder(tokenizer, nullptr, options()).encode(row_of(kConversation));
              }).find("no chat template"),
              std::string::npos);
}

TEST(Encode, ToolsAndVariablesOfTheRowReachTheTemplate) {
    const char* chat =
        "{{ tools[0].name }}{{ thinking }}{{ eos_token }}{% for m in messages %}{{ m.content }}{% "
        "endfor %}";
    EncodeOptions all = options();
    all.loss_on_all = true;
    EXPECT_EQ(
        trained(
            R"({"messages":[{"role":"user","content":"x"}],"tools":[{"name":"t"}],"chat_template_kwargs":{"thinking":"no"}})",
            all, chat),
        "tno</s>x");
}

TEST(Encode, OverlongRowsAreCutSkippedOrRefused) {
    EncodeOptions made = options();
    made.max_length = 4;
    const ByteEncoder tokenizer;
    const auto outcome = [&] {
        return RowEncoder(tokenizer, nullptr, made)
            .encode(row_of(R"({"prompt":"ab","completion":"cde"})"));
    };
    EXPECT_TRUE(outcome().truncated);
    EXPECT_EQ(outcome().row->ids, (std::vector<std::int32_t>{'a', 'b', 'c', 'd'}));
    EXPECT_EQ(outcome().row->supervised(), 2);
    made.overlong = Overlong::kSkip;
    EXPECT_FALSE(outcome().row.has_value());
    made.overlong = Overlong::kError;
    EXPECT_EQ(error_of(outcome),
              "train.jsonl:7: 6 tokens, data.max_length is 4. Raise it, or set data.overlong to "
              "truncate or skip.");
    made.max_length = 6;
    EXPECT_EQ(outcome().row->ids.size(), 6u);
    made.max_length = 1;
    EXPECT_NE(error_of(outcome).find("data.max_length is 1"), std::string::npos);
}

TEST(Encode, TokenizedRowsKeepTheirLabels) {
    EncodeOptions made = options();
    made.vocabulary_count = 10;
    const EncodedRow row = encode(R"({"input_ids":[1,2,3],"labels":[-100,-100,3]})", made);
    EXPECT_EQ(row.ids, (std::vector<std::int32_t>{1, 2, 3}));
    EXPECT_EQ(row.labels, (std::vector<std::int32_t>{-100, -100, 3}));
    EXPECT_EQ(encode(R"({"input_ids":[1,2,3]})", made).labels,
              (std::vector<std::int32_t>{1, 2, 3}));
    EXPECT_NE(error_of([&] {
                  encode(R"({"input_ids":[1,10]})", made);
              }).find("token id 10 is beyond the vocabulary of 10"),
              std::string::npos);
}
