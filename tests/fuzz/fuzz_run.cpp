#include "base/error.h"
#include "io/run/run_file.h"

/// A run file: what is accepted must read back as it is written.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace qshard;
    try {
        const std::string text(reinterpret_cast<const char*>(data), bytes);
        const std::string written = parse_run_file(text, "/fuzz/run.yaml", {}).to_yaml();
        if (parse_run_file(written, "/fuzz/run.yaml", {}).to_yaml() != written) __builtin_trap();
    } catch (const UserError&) {
    }
    return 0;
}
