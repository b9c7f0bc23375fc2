#include "base/error.h"

#include <new>
#include <system_error>

namespace qshard {

Failure failure_of(const std::exception& error) {
    if (const auto* known = dynamic_cast<const Error*>(&error))
        return {known->code(), known->what()};
    if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
        return {ExitCode::kUnavailable,
                "out of memory: the system gives this process no more (ulimit -v, the limit of the "
                "job or container, or the machine's memory)"};
    }
    if (const auto* system = dynamic_cast<const std::system_error*>(&error)) {
        const bool absent = system->code() == std::errc::resource_unavailable_try_again ||
                            system->code() == std::errc::not_enough_memory;
        return {absent ? ExitCode::kUnavailable : ExitCode::kIo, error.what()};
    }
    return {ExitCode::kBug, error.what()};
}

}  // namespace qshard
