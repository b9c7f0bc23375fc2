#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace qshard {

/// The one run that may write into a folder. What counts is a lock of the kernel on
/// FOLDER/run.lock, which network file systems pass on to the other nodes and which ends with its
/// process or node, however they end; the text in the file only tells people who has it. So a file
/// left behind by a kill locks nothing, and nobody ever needs to remove one.
class FolderLock {
  public:
    /// `job` names the scheduler's job, "" if there is none. Waits a moment for a holder that may
    /// be ending, longer for one of the same job or one whose process is gone already (its memory
    /// is being freed): then on_wait() is told whom for. SystemError(kPeerLost) naming the holder
    /// if it goes on; kCannotCreate. A file system without locks is no error: see warning().
    FolderLock(std::filesystem::path folder, const std::string& job,
               const std::function<void(const std::string&)>& on_wait);
    /// Removes the file, and the folder if this object made it and nothing else is in it.
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

    /// Why a second run would not be noticed, or "".
    const std::string& warning() const { return warning_; }

  private:
    bool try_lock();
    [[noreturn]] void refuse() const;

    std::filesystem::path folder_, file_;
    std::string job_, warning_;
    int descriptor_ = -1;
    bool made_folder_ = false;
};

/// This process's job as the scheduler (Slurm, PBS, LSF, Grid Engine) names it, or "".
std::string scheduler_job();

}  // namespace qshard
