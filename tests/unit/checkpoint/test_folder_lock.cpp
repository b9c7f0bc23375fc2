#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "io/checkpoint/folder_lock.h"
#include "tests/temp_folder.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

using std::chrono::milliseconds;

const auto kNobodyEnds = [](const std::string& holder) { FAIL() << holder; };

/// A process that holds the lock of `folder` until it is killed.
class Holder {
  public:
    Holder(const fs::path& folder, const std::string& job, FolderLock::Times times = {}) {
        int ready[2];
        EXPECT_EQ(::pipe(ready), 0);
        pid_ = ::fork();
        if (pid_ == 0) {
            const FolderLock lock(
                folder, job, [](const std::string&) {}, times);
            (void)!::write(ready[1], "x", 1);
            for (;;) ::pause();
        }
        char byte = 0;
        EXPECT_EQ(::read(ready[0], &byte, 1), 1);
        ::close(ready[0]);
        ::close(ready[1]);
    }
    ~Holder() { kill(); }
    void kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    pid_t pid() const { return pid_; }

  private:
    pid_t pid_ = 0;
};

TEST(FolderLock, ASecondHolderIsToldWhoHasIt) {
    const test::TempFolder folder;
    Holder holder(folder.path() / "out", "job-1");
    try {
        const FolderLock second(folder.path() / "out", "job-2", kNobodyEnds);
        FAIL() << "taken twice";
    } catch (const SystemError& error) {
        EXPECT_EQ(error.code(), ExitCode::kPeerLost);
        const std::string said = error.what();
        EXPECT_NE(said.find("is in use by another run: host "), std::string::npos) << said;
        EXPECT_NE(said.find(fmt::format("pid {}, job job-1, since 20", holder.pid())),
                  std::string::npos)
            << said;
    }
    holder.kill();
    EXPECT_TRUE(fs::exists(folder.path() / "out/run.lock"));
    const FolderLock after(folder.path() / "out", "", kNobodyEnds);
    EXPECT_EQ(after.warning(), "");
}

TEST(FolderLock, TwoOfOneProcessExcludeEachOther) {
    const test::TempFolder folder;
    auto first = std::make_unique<FolderLock>(folder.path(), "", kNobodyEnds);
    EXPECT_THROW(FolderLock(folder.path(), "", kNobodyEnds), SystemError);
    first.reset();
    EXPECT_FALSE(fs::exists(folder.path() / "run.lock"));
    const FolderLock second(folder.path(), "", kNobodyEnds);
}

TEST(FolderLock, AFileThatAKillLeftLocksNothingWhateverItSays) {
    const test::TempFolder folder;
    for (const char* text : {"", "host n07\npid 411\njob 9\nsince now\n", "garbage", "pid x\n\n"}) {
        folder.write("run.lock", text);
        const FolderLock lock(folder.path(), "", kNobodyEnds);
        std::ifstream file(folder.path() / "run.lock");
        std::string first;
        std::getline(file, first);
        EXPECT_TRUE(first.starts_with("host ")) << first;
    }
}

TEST(FolderLock, AFolderThatItMadeGoesIfItStaysEmpty) {
    const test::TempFolder folder;
    { const FolderLock lock(folder.path() / "new", "", kNobodyEnds); }
    EXPECT_FALSE(fs::exists(folder.path() / "new"));
    fs::create_directory(folder.path() / "old");
    { const FolderLock lock(folder.path() / "old", "", kNobodyEnds); }
    EXPECT_TRUE(fs::exists(folder.path() / "old"));
}

constexpr FolderLock::Times kQuick{milliseconds(20), milliseconds(400), milliseconds(200),
                                   milliseconds(400)};

/// What a run on another node wrote, instead of what is in the file.
void write_elsewhere(const fs::path& folder) {
    std::ofstream(folder / "run.lock") << "host n07\npid 411\njob 9\nsince 2026\nboot another\n";
}

TEST(FolderLock, AnotherNodesHolderIsKnownByItsBeats) {
    const test::TempFolder folder;
    for (const bool locked : {true, false}) {  // does its lock reach this node?
        Holder holder(folder.path(), "9", kQuick);
        if (!locked) {
            fs::copy_file(folder.path() / "run.lock", folder.path() / "copy");
            fs::rename(folder.path() / "copy", folder.path() / "run.lock");
        }
        write_elsewhere(folder.path());
        std::jthread beats([&](const std::stop_token& stop) {
            while (!locked && !stop.stop_requested()) {
                fs::last_write_time(folder.path() / "run.lock", fs::file_time_type::clock::now());
                std::this_thread::sleep_for(milliseconds(20));
            }
        });
        std::string waited_for;
        EXPECT_THROW(FolderLock(
                         folder.path(), "", [&](const auto& who) { waited_for = who; }, kQuick),
                     SystemError);
        EXPECT_NE(waited_for.find("host n07, pid 411, job 9"), std::string::npos) << waited_for;
    }
}

TEST(FolderLock, OneThatStandsStillOnAnotherNodeLosesItAndIsTold) {
    const test::TempFolder folder;
    Holder holder(folder.path(), "9", kQuick);
    ::kill(holder.pid(), SIGSTOP);
    write_elsewhere(folder.path());
    const FolderLock taken(
        folder.path(), "", [](const auto&) {}, kQuick);
    EXPECT_NO_THROW(taken.check_held());
    fs::rename(folder.path() / "run.lock", folder.path() / "away");
    EXPECT_THROW(taken.check_held(), SystemError);
    fs::rename(folder.path() / "away", folder.path() / "run.lock");
}

TEST(FolderLock, WaitsForAHolderOfTheSameJob) {
    const test::TempFolder folder;
    Holder holder(folder.path(), "7");
    std::string waited_for;
    const FolderLock lock(folder.path(), "7", [&](const std::string& who) {
        waited_for = who;
        holder.kill();
    });
    EXPECT_NE(waited_for.find("job 7"), std::string::npos);
}

}  // namespace
}  // namespace qshard
