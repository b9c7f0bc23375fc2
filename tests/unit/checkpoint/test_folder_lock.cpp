#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "io/checkpoint/folder_lock.h"
#include "tests/temp_folder.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

const auto kNobodyEnds = [](const std::string& holder) { FAIL() << holder; };

/// A process that holds the lock of `folder` until it is killed.
class Holder {
  public:
    Holder(const fs::path& folder, const std::string& job) {
        int ready[2];
        EXPECT_EQ(::pipe(ready), 0);
        pid_ = ::fork();
        if (pid_ == 0) {
            const FolderLock lock(folder, job, [](const std::string&) {});
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
