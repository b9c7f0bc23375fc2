#include "comm/signals.h"

#include <signal.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace qshard {
namespace {

std::atomic<int> flag{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not lock");

extern "C" void set_flag(int signal_number) {
    const int asked = static_cast<int>(signal_number == SIGUSR1 ? SignalRequest::kSave
                                                                : SignalRequest::kTerminate);
    int seen = flag.load();
    while (seen < asked && !flag.compare_exchange_weak(seen, asked)) {
    }
}

}  // namespace

void install_signal_flags() {
    struct sigaction action {};
    action.sa_handler = set_flag;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (const int signal_number : {SIGUSR1, SIGTERM})
        if (sigaction(signal_number, &action, nullptr) != 0)
            throw SystemError(fmt::format("cannot handle {}: {}", strsignal(signal_number),
                                          std::strerror(errno)));
}

SignalRequest signal_request() {
    return static_cast<SignalRequest>(flag.load());
}

void clear_signal_request() {
    flag.store(0);
}

}  // namespace qshard
