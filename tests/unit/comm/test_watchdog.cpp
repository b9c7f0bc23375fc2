#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <mutex>

#include "comm/heartbeat.h"
#include "comm/threads.h"
#include "comm/verdict.h"
#include "comm/watchdog.h"

using namespace qshard;
using namespace std::chrono_literals;

namespace {

RankState healthy(std::int64_t step) {
    RankState state;
    state.heard = true;
    state.step = step;
    state.section_limit = 10;
    return state;
}

void expect_verdict(const std::vector<RankState>& ranks, int rank, Loss loss) {
    const std::optional<Verdict> verdict = judge(ranks, 2.0);
    ASSERT_TRUE(verdict.has_value());
    EXPECT_EQ(verdict->rank, rank);
    EXPECT_EQ(verdict->loss, loss);
}

}  // namespace

TEST(Verdict, HealthyGroupsAndVictimsAreLeftAlone) {
    std::vector<RankState> ranks(4, healthy(7));
    EXPECT_FALSE(judge(ranks, 2.0));
    ranks[1].waiting = true;  // over its limit, but it waits for ranks that are within theirs
    ranks[1].section_seconds = 50;
    EXPECT_FALSE(judge(ranks, 2.0));
    ranks[1].waiting = false;  // released just now
    EXPECT_FALSE(judge(ranks, 2.0));
    for (RankState& state : ranks) state.waiting = true;  // rank 0 has only just begun to wait
    EXPECT_FALSE(judge(ranks, 2.0));
    ranks[2].silent_seconds = 100;
    ranks[2].heard = false;  // heartbeats never passed there
    EXPECT_FALSE(judge(ranks, 2.0));
    ranks[3].ended_seconds = 0.1;  // perhaps all of them are ending
    EXPECT_FALSE(judge(ranks, 2.0));
}

TEST(Verdict, TheCauseIsNamedAndNotItsVictims) {
    std::vector<RankState> ranks(4, healthy(7));
    for (const std::size_t victim : {0u, 1u, 3u}) {
        ranks[victim].waiting = true;
        ranks[victim].section_seconds = 30;
    }
    ranks[2].section_seconds = ranks[2].working_seconds = 11;
    expect_verdict(ranks, 2, Loss::kOverrun);
    ranks[2].waiting = true;
    ranks[2].working_seconds = 0;
    expect_verdict(ranks, 0, Loss::kDeadlock);
    ranks[3].step = 6;
    expect_verdict(ranks, 3, Loss::kDeadlock);
    ranks[1].silent_seconds = 2.1;
    expect_verdict(ranks, 1, Loss::kSilent);
    ranks[2].ended_seconds = 0.5;
    expect_verdict(ranks, 2, Loss::kEnded);
}

TEST(Heartbeat, OnlyBeatsOfTheSameJobAreHeard) {
    HeartbeatSocket ours("key", true), same_job("key", true), other_job("another key", true);
    const std::vector<sockaddr_in> to = parse_addresses(ours.addresses(), true);
    ASSERT_EQ(to.size(), 1u);
    Beat beat;
    beat.rank = 3;
    beat.step = 12;
    other_job.send(beat, to);
    const char stray[] = "stray";
    sendto(other_job.descriptor(), stray, sizeof stray, 0,
           reinterpret_cast<const sockaddr*>(&to[0]), sizeof to[0]);
    same_job.send(beat, to);
    const std::optional<Beat> got = ours.receive();
    ASSERT_TRUE(got.has_value());
    EXPECT_EQ(got->rank, 3);
    EXPECT_EQ(got->step, 12);
    EXPECT_FALSE(ours.receive().has_value());
    EXPECT_EQ(random_job_key().size(), 64u);
    EXPECT_NE(random_job_key(), random_job_key());
}

TEST(Heartbeat, PeersOfOtherHostsAreSentToTheirDevices) {
    const std::string addresses = "127.0.0.1:5000 10.1.2.3:5000 192.168.0.9:5000";
    EXPECT_EQ(parse_addresses(addresses, false).size(), 2u);
    EXPECT_EQ(ntohs(parse_addresses(addresses, true).at(0).sin_port), 5000);
}

TEST(Watchdog, NamesTheRankThatIsStuckInItsSection) {
    static constexpr SectionKind kGather{"gather", 0.4};
    std::mutex mutex;
    std::vector<std::pair<int, Culprit>> reports;  // by whom, about whom
    run_threads(3, [&](Communicator& group) {
        std::atomic<bool> told{false};
        Watchdog watchdog(group, {.limit_seconds = 1}, [&](const Culprit& culprit) {
            std::lock_guard lock(mutex);
            reports.emplace_back(group.rank(), culprit);
            told = true;
        });
        EXPECT_EQ(watchdog.unheard(), 0);
        const Section section(&watchdog, kGather, 12);
        if (group.rank() == 1) std::this_thread::sleep_for(1200ms);  // the others wait for it
        watchdog.stop();
        EXPECT_EQ(told, group.rank() == 0);
    });
    ASSERT_EQ(reports.size(), 1u);
    EXPECT_EQ(reports[0].first, 0);
    const Culprit& culprit = reports[0].second;
    EXPECT_EQ(culprit.rank, 1);
    EXPECT_EQ(culprit.step, 12);
    EXPECT_EQ(culprit.section, "gather");
    EXPECT_EQ(culprit.pid, getpid());
    EXPECT_TRUE(culprit.message().starts_with("rank 1 on ")) << culprit.message();
}

TEST(Watchdog, ProgressAndLongSectionsRaiseNoAlarm) {
    static constexpr SectionKind kStep{"step", 0.5}, kLoad{"load", 30};
    run_threads(2, [](Communicator& group) {
        Watchdog watchdog(group, {.limit_seconds = 0.5},
                          [](const Culprit& culprit) { ADD_FAILURE() << culprit.message(); });
        {
            const Section load(&watchdog, kLoad, 0);
            std::this_thread::sleep_for(group.rank() == 0 ? 900ms : 0ms);
        }
        for (int step = 1; step <= 10; ++step) {
            const Section section(&watchdog, kStep, step);
            std::this_thread::sleep_for(100ms);
            group.barrier();
        }
        watchdog.stop();
    });
}

TEST(Watchdog, AGroupOfOneWatchesItsSections) {
    static constexpr SectionKind kStuck{"stuck", 0.2};
    const auto group = make_self_communicator();
    std::atomic<int> reports{0};
    Watchdog watchdog(*group, {.limit_seconds = 0.5}, [&](const Culprit& culprit) {
        EXPECT_EQ(culprit.section, "stuck");
        ++reports;
    });
    watchdog.enter(kStuck, 3);
    std::this_thread::sleep_for(600ms);
    EXPECT_EQ(reports, 1);
    const Section without_watchdog(nullptr, kStuck, 1);
}
