#pragma once

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"

namespace qshard {

/// Starts a thread; SystemError(kUnavailable) that says what it was for and what to try if the
/// system refuses (the pids limit of a container, ulimit -u, too little address space).
template <class Thread = std::thread, class Body>
Thread start_thread(const std::string& purpose, Body&& body) {
    try {
        return Thread(std::forward<Body>(body));
    } catch (const std::system_error& error) {
        throw SystemError(
            ExitCode::kUnavailable,
            fmt::format("cannot start a thread {}: {}.\nTry fewer threads (placement.threads 1, or "
                        "--threads 1), or a larger limit of processes (ulimit -u, the pids limit "
                        "of the container) or of address space (ulimit -v).",
                        purpose, error.code().message()));
    }
}

}  // namespace qshard
