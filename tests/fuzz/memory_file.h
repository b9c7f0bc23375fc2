#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "io/formats/input_file.h"

/// The fuzzer's bytes as a file.
inline qshard::InputFile memory_file(const std::uint8_t* data, std::size_t bytes) {
    const int descriptor = ::memfd_create("fuzz", 0);
    if (descriptor < 0 || ::write(descriptor, data, bytes) != static_cast<ssize_t>(bytes))
        std::abort();
    return qshard::InputFile(descriptor, "fuzz");
}
