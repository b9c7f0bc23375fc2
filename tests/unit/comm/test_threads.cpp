#include <gtest/gtest.h>

#include <atomic>

#include "base/error.h"
#include "comm/bench.h"
#include "comm/threads.h"

using namespace qshard;

TEST(Threads, AnErrorOfOneRankEndsTheWaitsOfAllAndIsTheOneReported) {
    std::atomic<int> lost{0};
    try {
        run_threads(4, [&](Communicator& group) {
            group.barrier();
            if (group.rank() == 2) throw UserError("the file of rank 2 is bad");
            try {
                for (;;) group.barrier();
            } catch (const SystemError& error) {
                EXPECT_EQ(error.code(), ExitCode::kPeerLost);
                EXPECT_NE(std::string(error.what()).find("rank 2"), std::string::npos);
                ++lost;
                throw;
            }
        });
        FAIL() << "no error";
    } catch (const UserError& error) {
        EXPECT_STREQ(error.what(), "the file of rank 2 is bad");
    }
    EXPECT_EQ(lost, 3);
}

TEST(Threads, ARankThatLeavesEarlyIsNoticed) {
    try {
        run_threads(3, [](Communicator& group) {
            if (group.rank() != 1) group.barrier();
        });
        FAIL() << "no error";
    } catch (const SystemError& error) {
        EXPECT_EQ(error.code(), ExitCode::kPeerLost);
        EXPECT_NE(std::string(error.what()).find("rank 1 left"), std::string::npos) << error.what();
    }
}

TEST(Threads, AnErrorUnwindsPendingOperationsBeforeTheirBuffers) {
    for (int attempt = 0; attempt < 20; ++attempt) {
        EXPECT_THROW(run_threads(3,
                                 [](Communicator& group) {
                                     std::vector<std::byte> mine(50'000), all(150'000);
                                     const Request request = group.all_gather(mine, all);
                                     const Request next = group.all_gather(mine, all);
                                     if (group.rank() == 1) throw UserError("rank 1 goes");
                                     group.barrier();
                                 }),
                     UserError);
    }
}

TEST(Threads, AGatherWhoseMemoryNeverGetsReadyFailsEverywhere) {
    std::atomic<int> lost{0};
    EXPECT_THROW(run_threads(3,
                             [&](Communicator& group) {
                                 std::vector<std::byte> mine(100), all(300);
                                 const auto ready = [&] {
                                     if (group.rank() == 1) throw UserError("the device is gone");
                                 };
                                 try {
                                     group.all_gather(mine, all, ready).wait();
                                 } catch (const SystemError&) {
                                     ++lost;
                                     throw;
                                 }
                             }),
                 UserError);
    EXPECT_EQ(lost, 2);
}

TEST(Threads, IssuedOperationsCompleteWhenTheBodyReturns) {
    std::vector<std::vector<std::byte>> all(3, std::vector<std::byte>(3));
    std::vector<std::byte> mine{std::byte{1}, std::byte{2}, std::byte{3}};
    run_threads(3, [&](Communicator& group) {
        const auto self = static_cast<std::size_t>(group.rank());
        group.all_gather(std::span(mine).subspan(self, 1), all[self]);
    });
    for (const auto& got : all) EXPECT_EQ(got, mine);
}

TEST(Threads, RanksThatDisagreeAreToldInsteadOfHanging) {
    std::vector<std::byte> buffer(100);
    EXPECT_THROW(
        run_threads(2,
                    [&](Communicator& group) {
                        std::vector<std::byte> mine(group.rank() == 0 ? 3 : 4), all(8);
                        group.all_gather(mine, std::span(all).first(2 * mine.size())).wait();
                    }),
        BugError);
    EXPECT_THROW(
        run_threads(2,
                    [&](Communicator& group) {
                        const auto bytes = std::span(buffer).first(10);
                        if (group.rank() == 0) {
                            group.exchange({{1, bytes}}, {}).wait();
                        } else {
                            group.exchange({}, {{0, std::span(buffer).subspan(50, 9)}}).wait();
                        }
                    }),
        BugError);
    EXPECT_THROW(run_threads(2,
                             [&](Communicator& group) {
                                 if (group.rank() == 0) {
                                     group.barrier();
                                 } else {
                                     group.broadcast(std::span(buffer).subspan(60, 1), 1).wait();
                                 }
                             }),
                 BugError);
}

TEST(Threads, BenchMeasuresEveryOperation) {
    run_threads(2, [](Communicator& group) {
        const std::vector<LinkSpeed> speeds = bench_comm(group, 4096);
        EXPECT_EQ(speeds.size(), 1u + 2 * 4);  // 8, 64, 512, 4096 bytes
        for (const LinkSpeed& speed : speeds) EXPECT_GT(speed.microseconds, 0) << speed.operation;
        EXPECT_NE(link_table(group, speeds).find("2 ranks over threads"), std::string::npos);
    });
}
