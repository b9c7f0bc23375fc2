#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

namespace qshard {

/// Adds up the time that a backend's work takes by sections of a step. Sections are counted from 0.
class SectionClock {
  public:
    static constexpr int kNone = -1;

    virtual ~SectionClock() = default;
    /// Work issued from now on belongs to `section`; kNone: to none, but a device may count what
    /// lies between two sections to the second.
    virtual void enter(int section) = 0;
    /// Seconds of every section since the last call. Waits for the work issued.
    virtual std::vector<double> take() = 0;
};

/// By the host's clock, where operations are done when their call returns.
class HostSectionClock final : public SectionClock {
  public:
    explicit HostSectionClock(int sections) : seconds_(static_cast<std::size_t>(sections), 0.0) {}

    void enter(int section) override {
        const auto now = std::chrono::steady_clock::now();
        if (section_ != kNone) {
            seconds_[static_cast<std::size_t>(section_)] +=
                std::chrono::duration<double>(now - begin_).count();
        }
        section_ = section;
        begin_ = now;
    }
    std::vector<double> take() override {
        enter(section_);
        return std::exchange(seconds_, std::vector<double>(seconds_.size(), 0.0));
    }

  private:
    std::vector<double> seconds_;
    int section_ = kNone;
    std::chrono::steady_clock::time_point begin_;
};

/// Counts the work of its scope to a section.
class InSection {
  public:
    InSection(SectionClock& clock, int section) : clock_(clock) { clock_.enter(section); }
    ~InSection() {
        try {
            clock_.enter(SectionClock::kNone);
        } catch (const std::exception&) {
            // A device that fails fails the next operation, too, which may say so.
        }
    }
    InSection(const InSection&) = delete;
    InSection& operator=(const InSection&) = delete;

  private:
    SectionClock& clock_;
};

}  // namespace qshard
