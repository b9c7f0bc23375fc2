#include "base/error.h"
#include "io/checkpoint/image.h"
#include "io/checkpoint/manifest.h"

/// First byte: what the rest is. libhdf5 itself is not instrumented; its memory errors show under
/// the allocator's checks.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    if (bytes == 0) return 0;
    try {
        if (data[0] == 'm') {
            qshard::parse_manifest({reinterpret_cast<const char*>(data + 1), bytes - 1});
        } else {
            const auto state =
                qshard::decode_checkpoint(std::as_bytes(std::span(data + 1, bytes - 1)));
            if (!qshard::problem_of(state).empty()) __builtin_trap();
            if (state.adapter.size() > bytes) __builtin_trap();
        }
    } catch (const qshard::UserError&) {
    }
    return 0;
}
