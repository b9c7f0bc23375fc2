#include "base/error.h"
#include "io/chat/template.h"

/// A chat template, rendered over a conversation with tools.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace qshard;
    static const boost::json::array messages = boost::json::parse(
                                                   R"([{"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": " What is 2 + 2? "}]},
                {"role": "assistant", "content": null, "tool_calls": [{"type": "function",
                 "function": {"name": "add", "arguments": {"a": 2, "b": [2.5, true, null]}}}]},
                {"role": "tool", "name": "add", "content": "4"},
                {"role": "assistant", "content": "Vier \u00fc <b>"}])")
                                                   .as_array();
    static const boost::json::object variables =
        boost::json::parse(R"({"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": false,
                               "tools": [{"type": "function", "function": {"name": "add"}}]})")
            .as_object();
    try {
        const std::string source(reinterpret_cast<const char*>(data), bytes);
        ChatTemplate chat = ChatTemplate::parse(source, "fuzz");
        chat.pin_clock(1700000000);
        for (const bool prompt : {false, true}) {
            const ChatTemplate::Rendered out = chat.render(messages, prompt, variables);
            for (const auto& [begin, end] : out.generation_spans) {
                if (begin > end || end > out.text.size()) __builtin_trap();
            }
        }
    } catch (const UserError&) {
    }
    return 0;
}
