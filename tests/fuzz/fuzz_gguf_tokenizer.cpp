#include "base/error.h"
#include "io/formats/gguf_model.h"
#include "io/tokenizer/to_json.h"
#include "memory_file.h"

/// The tokenizer of a GGUF file, and what it is as tokenizer.json, through a text.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace qshard;
    try {
        const GgufFile file(memory_file(data, bytes));
        const auto described = gguf_tokenizer(file);
        if (!described) return 0;
        const Tokenizer tokenizer = Tokenizer::from_gguf(*described);
        const std::string text = "ab  ba\xc3\xb6 12\n<s>\xe2\x96\x81 \xf0\x9f\x98\x80</s>";
        const std::vector<std::int32_t> ids = tokenizer.encode(text, true);
        for (const std::int32_t id : ids) {
            if (id < 0 || id >= tokenizer.vocabulary_count()) __builtin_trap();
        }
        tokenizer.decode(ids, true);
        tokenizer.decode(ids, false);
        const std::string json = tokenizer_json_of(*described);
        Tokenizer::from_json_text(json, "made").encode(text, true);
    } catch (const UserError&) {
    }
    return 0;
}
