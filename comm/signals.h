#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace qshard {

/// What a signal asked for; ordered, so that the largest over the ranks is what all of them do.
enum class SignalRequest : int {
    kNone = 0,
    kSave = 1,       ///< SIGUSR1: save now, exit 85
    kTerminate = 2,  ///< SIGTERM, SIGINT, SIGHUP: save if it can be done in time, exit 85
};

/// From now on SIGUSR1, SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a closed terminal) only set a flag;
/// but those that are ignored stay so (nohup, jobs in the background of a script). Ranks get a
/// signal at different times: at a step boundary exchange what they got over all ranks
/// (all_gather_value) and act on the largest, so that all save the same step. A second SIGINT ends
/// the process at once.
void install_signal_flags();

/// The strongest request since installation, or since clear_signal_request(). Async-signal-safe.
SignalRequest signal_request();
/// The number of the signal that made it; 0: none.
int requesting_signal();
void clear_signal_request();

/// Answers Ctrl-C of a person while it lives: the first one says on stderr that the run will save,
/// the second calls `end_at_once` on a thread of its own, and ends the process. What comes within
/// half a second of the first is the same one, forwarded twice. One in a process.
class InterruptWatch {
  public:
    explicit InterruptWatch(std::function<void()> end_at_once);
    ~InterruptWatch();
    InterruptWatch(const InterruptWatch&) = delete;
    InterruptWatch& operator=(const InterruptWatch&) = delete;

  private:
    void serve();

    const std::function<void()> end_at_once_;
    std::atomic<bool> stopping_{false};
    int wake_ = -1;
    std::thread thread_;
};

}  // namespace qshard
