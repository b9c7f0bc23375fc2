#pragma once

namespace qshard {

/// What a signal asked for; ordered, so that the largest over the ranks is what all of them do.
enum class SignalRequest : int {
    kNone = 0,
    kSave = 1,       ///< SIGUSR1: save now, exit 85
    kTerminate = 2,  ///< SIGTERM: the launcher kills soon; save if it can be done in time, exit 85
};

/// From now on SIGUSR1 and SIGTERM only set a flag. Ranks get it at different times: at a step
/// boundary exchange signal_request() over all ranks (all_gather_value) and act on the largest, so
/// that all save the same step.
void install_signal_flags();

/// The strongest request since installation, or since clear_signal_request(). Async-signal-safe.
SignalRequest signal_request();
void clear_signal_request();

}  // namespace qshard
