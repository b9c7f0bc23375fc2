#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <regex>
#include <string>

#include "base/error.h"

// Real processes under mpirun get into trouble: the job ends, soon, with the right code, and names
// the culprit.

namespace {

struct Ended {
    int code = -1;
    double seconds = 0;
    std::string output;

    std::size_t times(const std::string& text) const {
        std::size_t found = 0;
        for (std::size_t at = output.find(text); at != std::string::npos;
             at = output.find(text, at + 1))
            ++found;
        return found;
    }
    bool contains(const std::string& text) const { return times(text) > 0; }
};

Ended run(int ranks, const std::string& mode, int victim) {
    // A job that hangs in spite of everything must not hang the tests.
    const std::string command =
        fmt::format("timeout -s KILL 40 {} --oversubscribe --bind-to none -np {} {} {} {} 2>&1",
                    QSHARD_MPIRUN, ranks, QSHARD_FAULT_PROGRAM, mode, victim);
    const auto start = std::chrono::steady_clock::now();
    Ended ended;
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return ended;
    char part[4096];
    for (std::size_t got = 0; (got = std::fread(part, 1, sizeof part, pipe)) > 0;)
        ended.output.append(part, got);
    const int status = pclose(pipe);
    ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    ended.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return ended;
}

std::string victim_pid(const Ended& ended) {
    std::smatch match;
    return std::regex_search(ended.output, match, std::regex("victim pid (\\d+)")) ? match[1].str()
                                                                                   : "none";
}

/// One watchdog line, about this rank, with host and pid, and in time: start of the job (1 s) +
/// limit + ending it.
void expect_named(const Ended& ended, int rank, const std::string& reason) {
    char host[256] = {};
    gethostname(host, sizeof host - 1);
    EXPECT_EQ(ended.times("watchdog of rank"), 1u) << ended.output;
    EXPECT_TRUE(ended.contains(
        fmt::format("rank {} on {} (pid {}) is lost at step", rank, host, victim_pid(ended))))
        << ended.output;
    EXPECT_TRUE(ended.contains(reason)) << ended.output;
    EXPECT_LT(ended.seconds, 8) << ended.output;
}

}  // namespace

TEST(Faults, AStoppedRankIsFoundAndNamed) {
    const Ended ended = run(3, "stop", 2);
    EXPECT_EQ(ended.code, 75);
    expect_named(ended, 2, "is stopped (SIGSTOP");
}

TEST(Faults, AStoppedRankZeroIsFoundByTheOthers) {
    const Ended ended = run(4, "stop", 0);
    EXPECT_EQ(ended.code, 75);
    expect_named(ended, 0, "is stopped (SIGSTOP");
    EXPECT_TRUE(ended.contains("watchdog of rank 1")) << ended.output;
}

TEST(Faults, ARankThatSpinsIsFoundByItsSection) {
    const Ended ended = run(3, "spin", 1);
    EXPECT_EQ(ended.code, 75);
    expect_named(ended, 1, "in section step: stuck for");
}

TEST(Faults, AKilledRankIsNamedBeforeTheLauncherEndsTheJob) {
    const Ended ended = run(3, "kill", 1);
    EXPECT_TRUE(ended.code == 75 || ended.code == 137) << ended.code;
    expect_named(ended, 1, "its process is gone");
}

TEST(Faults, ACrashEndsTheJobWithANonZeroCode) {
    const Ended ended = run(3, "segfault", 0);
    EXPECT_TRUE(ended.code == 75 || ended.code == 139) << ended.code;
    EXPECT_LT(ended.seconds, 8);
}

TEST(Faults, ASlowSectionWithItsOwnLimitRaisesNoAlarm) {
    const Ended ended = run(4, "slow", 1);
    EXPECT_EQ(ended.code, 0) << ended.output;
    EXPECT_TRUE(ended.contains("finished")) << ended.output;
    EXPECT_FALSE(ended.contains("watchdog")) << ended.output;
    EXPECT_GT(ended.seconds, 5);
}

TEST(Faults, AnAgreedErrorIsPrintedOnceByRankZero) {
    const Ended ended = run(4, "throw", 2);
    EXPECT_EQ(ended.code, 65);
    EXPECT_EQ(ended.times("error: rank 2 on "), 1u) << ended.output;
    EXPECT_EQ(ended.times("data.jsonl:7: no prompt"), 1u) << ended.output;
    EXPECT_FALSE(ended.contains("watchdog")) << ended.output;
    EXPECT_LT(ended.seconds, 8);
}

TEST(Faults, AnErrorOfOneRankAloneEndsAllWithItsCode) {
    const Ended ended = run(4, "alone", 3);
    EXPECT_EQ(ended.code, 74);
    EXPECT_EQ(ended.times("error: rank 3 on "), 1u) << ended.output;
    EXPECT_FALSE(ended.contains("watchdog")) << ended.output;
    EXPECT_LT(ended.seconds, 8);
}

TEST(Faults, ASignalToOneRankMakesAllSaveTheSameStep) {
    const Ended ended = run(3, "save", 2);
    EXPECT_EQ(ended.code, 85);
    EXPECT_EQ(ended.times(" saves step 3"), 3u) << ended.output;
}
