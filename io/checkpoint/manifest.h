#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qshard {

/// What is known of a checkpoint file before libhdf5 sees a byte of it. Stored as FILE.json beside
/// FILE.
struct Manifest {
    std::string file;  ///< bare name
    std::uint64_t bytes = 0;
    std::string sha256;  ///< of the whole file
    std::int64_t step = 0;
    std::string adapter_sha256;
    std::string created;
    std::string engine_version;
};

/// JSON whose last member is the SHA-256 of the text before it, so that a damaged manifest is seen
/// too.
std::string manifest_text(const Manifest& manifest);

/// UserError if the text is not exactly what manifest_text() writes.
Manifest parse_manifest(std::string_view text);

}  // namespace qshard
