#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/formats/input_file.h"
#include "tests/temp_folder.h"

/// Files made by tests.
namespace qshard::testing {

using test::TempFolder;

template <class T>
std::string bytes_of_value(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

/// A file in memory.
inline InputFile memory_file(const std::string& content, const std::string& name = "test") {
    const int descriptor = ::memfd_create("test", 0);
    if (::write(descriptor, content.data(), content.size()) !=
        static_cast<ssize_t>(content.size())) {
        throw std::runtime_error("memfd");
    }
    return InputFile(descriptor, name);
}

/// Expects an Error for the user, of input or of the place to write to, whose message contains
/// `part`.
template <class Action>
void expect_refused(Action&& action, const std::string& part, const std::string& what) {
    try {
        action();
        ADD_FAILURE() << what << ": accepted";
    } catch (const Error& error) {
        EXPECT_NE(error.code(), ExitCode::kBug) << what << ": " << error.what();
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
            << what << ": " << error.what();
    }
}

template <class T>
std::uint32_t crc_of(std::span<const T> values) {
    return static_cast<std::uint32_t>(::crc32(0, reinterpret_cast<const Bytef*>(values.data()),
                                              static_cast<uInt>(values.size_bytes())));
}

/// The linear congruential generator of the golden vectors: s = 1664525 s + 1013904223.
struct Lcg {
    std::uint32_t state;
    std::uint32_t next() { return state = state * 1664525u + 1013904223u; }
};

}  // namespace qshard::testing
