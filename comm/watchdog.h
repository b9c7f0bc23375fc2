#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace qshard {

/// A part of the work with its own time limit; declare it static constexpr. limit_seconds 0: no
/// limit.
struct SectionKind {
    const char* name;
    double limit_seconds;
};

/// The rank that keeps the group from going on.
struct Culprit {
    int rank = 0;
    std::string host;
    std::int64_t pid = 0;
    std::int64_t step = 0;
    std::string section;
    double section_seconds = 0;
    double silent_seconds = 0;
    std::string
        reason;  ///< "its process is gone (killed or crashed)", "no heartbeat for 2.1 s; ..."

    /// "rank 2 on n07 (pid 411) is lost at step 12 in section gather: its process is ..."
    std::string message() const;
};

/// Finds ranks that are gone, silent or stuck, by heartbeats on a channel of their own (UDP), and
/// says which. Rank 0 watches all ranks, every rank watches rank 0 (a little more patiently, the
/// higher the more, so that one of them speaks). Time in which this process itself was stopped or
/// starved counts for nobody.
class Watchdog {
  public:
    struct Options {
        double limit_seconds =
            60;  ///< longest silence; a beat is sent every eighth of it, at least every 0.5 s
        double handshake_seconds = 5;  ///< how long to wait for the first beat of everybody
    };
    /// Called once, on the watchdog's thread; expected to record the culprit, print it and abort
    /// the job.
    using OnLost = std::function<void(const Culprit&)>;

    /// Collective. The communicator must outlive it.
    Watchdog(Communicator& communicator, Options options, OnLost on_lost);
    /// Without stop(): this rank ends with an error. Peers are told and keep quiet for a few
    /// seconds, so that the error is not drowned by reports that this rank is gone.
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    /// Ends watching on all ranks, after all arrived. Collective.
    void stop();

    /// This rank is now in `kind` at `step`, and its clock starts again. A few atomic stores; one
    /// thread of a rank only.
    void enter(const SectionKind& kind, std::int64_t step);
    const SectionKind& section() const { return *section_.load(); }
    std::int64_t step() const { return step_.load(); }

    /// Ranks this one should hear and never did: a firewall is likely, and their silence will not
    /// be noticed.
    int unheard() const { return unheard_; }

  private:
    struct Thread;

    Communicator& communicator_;
    std::atomic<const SectionKind*> section_;
    std::atomic<std::int64_t> step_{0};
    std::atomic<std::uint64_t> changes_{0};
    int unheard_ = 0;
    std::unique_ptr<Thread> thread_;
};

/// Scope of a section; the outer section goes on, with a fresh clock, when it ends. Without a
/// watchdog it does nothing.
class Section {
  public:
    Section(Watchdog* watchdog, const SectionKind& kind, std::int64_t step) : watchdog_(watchdog) {
        if (watchdog_ == nullptr) return;
        outer_ = &watchdog_->section();
        outer_step_ = watchdog_->step();
        watchdog_->enter(kind, step);
    }
    ~Section() {
        if (watchdog_ != nullptr) watchdog_->enter(*outer_, outer_step_);
    }
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

  private:
    Watchdog* watchdog_;
    const SectionKind* outer_ = nullptr;
    std::int64_t outer_step_ = 0;
};

}  // namespace qshard
