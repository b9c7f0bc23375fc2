#include "base/error.h"
#include "io/peft/peft_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    try {
        const std::string_view text(reinterpret_cast<const char*>(data), bytes);
        const qshard::PeftConfig config = qshard::parse_peft_config(text, "fuzz");
        // What we write of what we read must read back the same.
        const std::string ours = qshard::peft_config_text(config);
        if (qshard::peft_config_text(qshard::parse_peft_config(ours, "ours")) != ours)
            __builtin_trap();
    } catch (const qshard::UserError&) {
    }
    return 0;
}
