#include "comm/signals.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "base/threads.h"

namespace qshard {
namespace {

std::atomic<int> flag{0};    ///< the request, and above it the signal's number
std::atomic<int> watch{-1};  ///< the descriptor that wakes an InterruptWatch
std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not lock");

constexpr int kRequestBits = 2, kRequest = (1 << kRequestBits) - 1;

/// Ends this process as SIGINT does where nobody handles it. Async-signal-safe.
void die_of_interrupt() {
    ::signal(SIGINT, SIG_DFL);
    ::kill(::getpid(), SIGINT);
}

void tell_of_interrupt() {
    const int descriptor = watch.load();
    if (descriptor >= 0) {
        const std::uint64_t one = 1;
        (void)!::write(descriptor, &one, sizeof one);
    } else if (interrupts.load() > 1) {
        die_of_interrupt();
    }
}

extern "C" void set_flag(int signal_number) {
    const int error = errno;
    const int asked = static_cast<int>(signal_number == SIGUSR1 ? SignalRequest::kSave
                                                                : SignalRequest::kTerminate);
    const int mine = asked | signal_number << kRequestBits;
    int seen = flag.load();
    while ((seen & kRequest) < asked && !flag.compare_exchange_weak(seen, mine)) {
    }
    if (signal_number == SIGINT) {
        interrupts.fetch_add(1);
        tell_of_interrupt();
    }
    errno = error;
}

}  // namespace

void install_signal_flags() {
    struct sigaction action {};
    action.sa_handler = set_flag;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (const int signal_number : {SIGUSR1, SIGTERM, SIGINT, SIGHUP}) {
        struct sigaction former {};
        const bool known = sigaction(signal_number, nullptr, &former) == 0;
        if (known && former.sa_handler == SIG_IGN) continue;
        if (sigaction(signal_number, &action, nullptr) != 0)
            throw SystemError(fmt::format("cannot handle {}: {}", strsignal(signal_number),
                                          std::strerror(errno)));
    }
}

SignalRequest signal_request() {
    return static_cast<SignalRequest>(flag.load() & kRequest);
}

int requesting_signal() {
    return flag.load() >> kRequestBits;
}

void clear_signal_request() {
    flag.store(0);
    interrupts.store(0);
}

InterruptWatch::InterruptWatch(std::function<void()> end_at_once)
    : end_at_once_(std::move(end_at_once)), wake_(eventfd(0, EFD_CLOEXEC)) {
    if (wake_ < 0) throw SystemError(fmt::format("no event descriptor: {}", std::strerror(errno)));
    try {
        thread_ = start_thread("that waits for Ctrl-C", [this] { serve(); });
    } catch (...) {
        ::close(wake_);
        throw;
    }
    watch.store(wake_);
}

InterruptWatch::~InterruptWatch() {
    watch.store(-1);
    stopping_ = true;
    const std::uint64_t one = 1;
    (void)!::write(wake_, &one, sizeof one);
    thread_.join();
    ::close(wake_);
}

void InterruptWatch::serve() {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::milliseconds kSameOne{500};
    Clock::time_point first{};
    bool told = false;
    for (;;) {
        std::uint64_t count = 0;
        const bool woken = ::read(wake_, &count, sizeof count) == sizeof count;
        if (stopping_) return;
        if (!woken) continue;
        if (!told) {
            told = true;
            first = Clock::now();
            std::fprintf(stderr,
                         "\nqshard: Ctrl-C: saving after this step. Once more ends at once, "
                         "without saving.\n");
        } else if (Clock::now() - first > kSameOne) {
            end_at_once_();
            die_of_interrupt();
            return;
        }
    }
}

}  // namespace qshard
