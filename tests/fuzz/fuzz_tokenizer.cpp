#include "base/error.h"
#include "io/tokenizer/tokenizer.h"

/// A tokenizer.json, then text and ids through what it describes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace qshard;
    try {
        const std::string_view json(reinterpret_cast<const char*>(data), bytes);
        const Tokenizer tokenizer = Tokenizer::from_json_text(json, "fuzz");
        const std::string text =
            "Hello  w\xc3\xb6rld 123\n<s>\xe2\x96\x81 it's 日本 \xf0\x9f\x98\x80</s>";
        std::vector<std::int32_t> ids = tokenizer.encode(text, true);
        for (const TokenSpan& span : tokenizer.encode_with_offsets(text, false)) {
            const auto end = static_cast<std::int64_t>(text.size());
            if (span.begin < 0 || span.begin > span.end || span.end > end) __builtin_trap();
        }
        for (const std::int32_t id : ids) {
            if (id < 0 || id >= tokenizer.vocabulary_count()) __builtin_trap();
        }
        ids.insert(ids.end(), {0, 1, 2, 3, 1 << 20, -1});
        tokenizer.decode(ids, true);
        tokenizer.decode(ids, false);
    } catch (const UserError&) {
    }
    return 0;
}
