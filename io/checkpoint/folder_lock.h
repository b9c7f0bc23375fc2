#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

namespace qshard {

/// The one run that may write into a folder. What counts is a lock of the kernel on
/// FOLDER/run.lock, which network file systems pass on to the other nodes and which ends with its
/// process or node, however they end; the text in the file only tells people who has it. So a file
/// left behind by a kill locks nothing, and nobody ever needs to remove one.
///
/// Some file systems keep locks on their node, have none, or keep that of a dead node. So the
/// holder also touches the file now and then, and whoever finds that another node holds or held it
/// looks whether that goes on: if so it is refused, if not it takes over, whatever the lock says.
class FolderLock {
  public:
    struct Times {
        std::chrono::milliseconds beat{4000};          ///< from one touch to the next
        std::chrono::milliseconds silence{20000};      ///< of a holder on another node that is dead
        std::chrono::milliseconds wait{2000};          ///< for a holder that may be ending
        std::chrono::milliseconds wait_ending{60000};  ///< for one that is known to be
    };
    using OnWait = std::function<void(const std::string& holder)>;

    /// `job` names the scheduler's job, "" if there is none. Waits a moment for a holder that may
    /// be ending, longer for one of the same job or one whose process is gone already (its memory
    /// is being freed), and for a sign of life from another node: then on_wait() is told whom for.
    /// SystemError(kPeerLost) naming the holder if it lives on; kCannotCreate.
    FolderLock(std::filesystem::path folder, const std::string& job, const OnWait& on_wait,
               Times times);
    FolderLock(std::filesystem::path folder, const std::string& job, const OnWait& on_wait)
        : FolderLock(std::move(folder), job, on_wait, Times()) {}
    /// Removes the file, and the folder if this object made it and nothing else is in it.
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

    /// SystemError(kPeerLost) if another run took over, because this one stood still for too long.
    void check_held() const;
    /// What is weaker than it should be, or "".
    const std::string& warning() const { return warning_; }

  private:
    enum class Outcome { kTaken, kHeld, kNoLocks };

    void acquire(const OnWait& on_wait);
    Outcome try_lock();
    bool beats() const;
    void write_holder();
    void beat(const std::stop_token& stop);
    [[noreturn]] void refuse() const;

    std::filesystem::path folder_, file_;
    std::string job_, warning_;
    Times times_;
    int descriptor_ = -1;
    bool made_folder_ = false;
    std::jthread beating_;
};

/// This process's job as the scheduler (Slurm, PBS, LSF, Grid Engine) names it, or "".
std::string scheduler_job();

}  // namespace qshard
