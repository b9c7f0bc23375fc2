#pragma once

#include <source_location>

// Force-included: clang 14 lacks the builtin that libstdc++'s std::source_location needs.
#ifndef __cpp_lib_source_location
namespace std {
class source_location {
  public:
    static constexpr source_location current(const char* file = __builtin_FILE(),
                                             unsigned line = __builtin_LINE()) {
        source_location where;
        where.file_ = file;
        where.line_ = line;
        return where;
    }
    constexpr const char* file_name() const { return file_; }
    constexpr unsigned line() const { return line_; }

  private:
    const char* file_ = "";
    unsigned line_ = 0;
};
}  // namespace std
#endif
