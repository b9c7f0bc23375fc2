#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <utime.h>

#include <filesystem>
#include <fstream>

#include "comm/agree.h"
#include "comm/signals.h"
#include "comm/stale_segments.h"
#include "comm/threads.h"
#include "tests/temp_folder.h"

using namespace qshard;

TEST(Agree, EveryRankThrowsTheErrorOfTheLowestFailingRank) {
    run_threads(4, [](Communicator& group) {
        try {
            agree(group, "loading", [&] {
                if (group.rank() >= 2)
                    throw UserError(ExitCode::kUnavailable,
                                    fmt::format("no disk {}", group.rank()));
            });
            ADD_FAILURE() << "no error on rank " << group.rank();
        } catch (const AgreedError& error) {
            EXPECT_EQ(error.code(), ExitCode::kUnavailable);
            const std::string message = error.what();
            EXPECT_TRUE(message.starts_with("rank 2 on ")) << message;
            EXPECT_TRUE(message.ends_with(": no disk 2")) << message;
        }
        agree(group, "going on", [] {});
    });
}

TEST(Agree, RankZeroAndOneRankNeedNoPrefix) {
    run_threads(2, [](Communicator& group) {
        try {
            // The inner agreement fails everywhere; the outer one adds nothing to its message.
            agree(group, "outer", [&] {
                agree(group, "inner", [&] {
                    if (group.rank() == 0) throw std::runtime_error("plain");
                });
            });
            ADD_FAILURE();
        } catch (const AgreedError& error) {
            EXPECT_STREQ(error.what(), "inner: plain");
            EXPECT_EQ(error.code(), ExitCode::kBug);
        }
    });
    const auto alone = make_self_communicator();
    EXPECT_THROW(agree(*alone, "alone", [] { throw UserError("bad"); }), AgreedError);
}

TEST(Signals, TheStrongestRequestStays) {
    install_signal_flags();
    clear_signal_request();
    EXPECT_EQ(signal_request(), SignalRequest::kNone);
    raise(SIGUSR1);
    EXPECT_EQ(signal_request(), SignalRequest::kSave);
    raise(SIGTERM);
    raise(SIGUSR1);
    EXPECT_EQ(signal_request(), SignalRequest::kTerminate);
    EXPECT_EQ(requesting_signal(), SIGTERM);
    clear_signal_request();
    EXPECT_EQ(requesting_signal(), 0);
    for (const int number : {SIGUSR1, SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_DFL);
}

TEST(Signals, CtrlCAndAClosedTerminalAskAsSigtermDoes) {
    for (const int number : {SIGINT, SIGHUP}) {
        install_signal_flags();
        clear_signal_request();
        raise(number);
        EXPECT_EQ(signal_request(), SignalRequest::kTerminate);
        EXPECT_EQ(requesting_signal(), number);
    }
    clear_signal_request();
    for (const int number : {SIGUSR1, SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_DFL);
}

TEST(Signals, WhatTheStarterIgnoresStaysIgnored) {
    signal(SIGHUP, SIG_IGN);  // nohup
    install_signal_flags();
    clear_signal_request();
    raise(SIGHUP);
    EXPECT_EQ(signal_request(), SignalRequest::kNone);
    for (const int number : {SIGUSR1, SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_DFL);
}

TEST(StaleSegments, OnlyOldUnusedFilesOfThisKindAreRemoved) {
    namespace fs = std::filesystem;
    const test::TempFolder folder;
    const fs::path& root = folder.path();
    const fs::path shared = root / "shm", proc = root / "proc";
    fs::create_directories(shared);
    fs::create_directories(proc / "41");
    fs::create_directories(proc / "sys");
    for (const char* name : {"vader_segment.h.0.1.0", "vader_segment.h.0.1.1", "other"}) {
        std::ofstream(shared / name) << "x";
        const utimbuf old{1000, 1000};
        ASSERT_EQ(utime((shared / name).c_str(), &old), 0);
    }
    std::ofstream(shared / "vader_segment.h.0.2.0") << "young";
    std::ofstream(proc / "41" / "maps")
        << "7f0-7f1 rw-s 0 00:01 5   " << (shared / "vader_segment.h.0.1.1").string() << "\n";
    EXPECT_EQ(remove_stale_segments(shared.string(), proc.string()), 1);
    EXPECT_FALSE(fs::exists(shared / "vader_segment.h.0.1.0"));
    EXPECT_TRUE(fs::exists(shared / "vader_segment.h.0.1.1"));
    EXPECT_TRUE(fs::exists(shared / "vader_segment.h.0.2.0"));
    EXPECT_TRUE(fs::exists(shared / "other"));
    EXPECT_EQ(remove_stale_segments((root / "none").string(), proc.string()), 0);
}
