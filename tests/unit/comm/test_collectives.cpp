#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/launch.h"
#include "comm/nccl_communicator.h"
#include "comm/threads.h"

// One set of cases for every transport. Started by mpirun this program runs them over MPI, or over
// NCCL (QSHARD_TEST_TRANSPORT=nccl, or started by QSHARD_ID_FILE); started alone, over "self" and
// over threads. The values are integers, functions of place alone, so that
// every comparison is exact.

using namespace qshard;

namespace {

constexpr int kSelf = 0, kMpi = -1;
std::unique_ptr<Communicator> mpi_group;

bool under_launcher() {
    return Launch::under_launcher() || Launch::by_file();
}

std::byte pattern(int rank, std::size_t salt, std::size_t i) {
    return static_cast<std::byte>(
        (i * 131 + salt * 17 + static_cast<std::size_t>(rank) * 59 + (i >> 8)) & 0xff);
}

std::vector<std::byte> block(int rank, std::size_t salt, std::size_t bytes) {
    std::vector<std::byte> made(bytes);
    constexpr std::size_t kPeriod = 65543;  // prime, so that no piece looks like another
    for (std::size_t i = 0; i < std::min(bytes, kPeriod); ++i) made[i] = pattern(rank, salt, i);
    for (std::size_t i = kPeriod; i < bytes; i += kPeriod)
        std::memcpy(&made[i], made.data(), std::min(kPeriod, bytes - i));
    return made;
}

class Collectives : public testing::TestWithParam<int> {
  protected:
    void on_all_ranks(const std::function<void(Communicator&)>& body) const {
        if (GetParam() == kMpi) {
            body(*mpi_group);
        } else if (GetParam() == kSelf) {
            body(*make_self_communicator());
        } else {
            run_threads(GetParam(), body);
        }
    }
};

TEST_P(Collectives, AllGatherPutsEveryBlockInItsPlace) {
    on_all_ranks([](Communicator& group) {
        const auto ranks = static_cast<std::size_t>(group.count());
        const auto self = static_cast<std::size_t>(group.rank());
        for (const std::size_t bytes : {0ul, 1ul, 7ul, 1000ul, 16384ul, 16385ul, 1ul << 20,
                                        (1ul << 20) + 1, (3ul << 20) + 12345}) {
            const std::vector<std::byte> mine = block(group.rank(), bytes, bytes);
            std::vector<std::byte> apart(ranks * bytes), inside(ranks * bytes);
            std::copy(mine.begin(), mine.end(),
                      inside.begin() + static_cast<std::ptrdiff_t>(self * bytes));
            group.all_gather(mine, apart).wait();
            group.all_gather(std::span(inside).subspan(self * bytes, bytes), inside).wait();
            std::vector<std::byte> want;
            for (int rank = 0; rank < group.count(); ++rank) {
                const std::vector<std::byte> theirs = block(rank, bytes, bytes);
                want.insert(want.end(), theirs.begin(), theirs.end());
            }
            EXPECT_TRUE(apart == want) << bytes << " bytes";
            EXPECT_TRUE(inside == want) << bytes << " bytes, in place";
        }
    });
}

/// A plan that every rank can compute: from -> to sends some pieces, of odd lengths, none or large
/// ones among them.
std::vector<std::size_t> pieces_between(int from, int to) {
    std::vector<std::size_t> bytes;
    const int count = (from * 5 + to * 3) % 4;
    for (int i = 0; i < count; ++i)
        bytes.push_back(static_cast<std::size_t>((from * 977 + to * 331 + i * 71) % 5000));
    if ((from + to) % 3 == 0) bytes.push_back(0);
    if ((from + 2 * to) % 5 == 2) bytes.push_back((3 << 20) + 5);
    return bytes;
}

TEST_P(Collectives, ExchangeMatchesPiecesInListOrder) {
    on_all_ranks([](Communicator& group) {
        const int self = group.rank();
        std::vector<std::vector<std::byte>> outgoing, incoming;
        std::vector<SendPiece> sends;
        std::vector<RecvPiece> receives;
        for (int peer = 0; peer < group.count(); ++peer) {
            std::size_t salt = 0;
            for (const std::size_t bytes : pieces_between(self, peer)) {
                outgoing.push_back(
                    block(self, 100 * static_cast<std::size_t>(peer) + salt++, bytes));
                sends.push_back({peer, outgoing.back()});
            }
            for (const std::size_t bytes : pieces_between(peer, self)) {
                incoming.emplace_back(bytes);
                receives.push_back({peer, incoming.back()});
            }
        }
        group.exchange(std::move(sends), std::move(receives)).wait();
        auto got = incoming.begin();
        for (int peer = 0; peer < group.count(); ++peer) {
            std::size_t salt = 0;
            for (const std::size_t bytes : pieces_between(peer, self)) {
                EXPECT_TRUE(*got++ ==
                            block(peer, 100 * static_cast<std::size_t>(self) + salt++, bytes))
                    << "from " << peer << ", " << bytes << " bytes";
            }
        }
    });
}

TEST_P(Collectives, ManySmallPiecesArriveInOrder) {
    on_all_ranks([](Communicator& group) {
        constexpr std::size_t kPieces = 300;
        const auto ranks = static_cast<std::size_t>(group.count());
        std::vector<std::int64_t> from(ranks * kPieces), to(ranks * kPieces, -1);
        std::vector<SendPiece> sends;
        std::vector<RecvPiece> receives;
        for (std::size_t i = 0; i < from.size(); ++i) {
            const auto peer = static_cast<int>(i % ranks);
            from[i] = static_cast<std::int64_t>(i) * 1000 + group.rank();
            sends.push_back({peer, std::as_bytes(std::span(&from[i], 1))});
            receives.push_back({peer, std::as_writable_bytes(std::span(&to[i], 1))});
        }
        group.exchange(std::move(sends), std::move(receives)).wait();
        const auto self = static_cast<std::size_t>(group.rank());
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < to.size(); ++i) {
            const std::size_t theirs = i / ranks * ranks + self;
            if (to[i] != static_cast<std::int64_t>(theirs * 1000 + i % ranks)) ++wrong;
        }
        EXPECT_EQ(wrong, 0u);
    });
}

TEST_P(Collectives, BroadcastFromEveryRoot) {
    on_all_ranks([](Communicator& group) {
        for (int root = 0; root < group.count(); ++root) {
            for (const std::size_t bytes : {0ul, 1ul, 4097ul, (6ul << 20) + 3}) {
                std::vector<std::byte> data =
                    group.rank() == root ? block(root, 3, bytes) : std::vector<std::byte>(bytes);
                group.broadcast(data, root).wait();
                EXPECT_TRUE(data == block(root, 3, bytes)) << "root " << root;
            }
        }
    });
}

TEST_P(Collectives, OperationsRunInOrderWhileTheCallerGoesOn) {
    on_all_ranks([](Communicator& group) {
        // Each operation sends what the one before brought, so any other order than that of issue
        // shows.
        constexpr std::size_t kBytes = 100'000;
        const int right = (group.rank() + 1) % group.count();
        const int left = (group.rank() + group.count() - 1) % group.count();
        std::vector<std::vector<std::byte>> hops{block(group.rank(), 9, kBytes)};
        constexpr int kHops = 12;
        for (int i = 0; i < kHops; ++i) hops.emplace_back(kBytes);
        std::vector<Request> requests;
        for (std::size_t i = 0; i < kHops; ++i)
            requests.push_back(group.exchange({{right, hops[i]}}, {{left, hops[i + 1]}}));
        for (auto request = requests.rbegin(); request != requests.rend(); ++request)
            request->wait();
        for (const Request& request : requests) EXPECT_TRUE(request.done());
        const int origin = ((group.rank() - kHops) % group.count() + group.count()) % group.count();
        EXPECT_TRUE(hops.back() == block(origin, 9, kBytes));
        Request().wait();  // complete by definition
    });
}

TEST_P(Collectives, AGatherWaitsUntilItsMemoryMayBeWritten) {
    on_all_ranks([](Communicator& group) {
        constexpr std::size_t kBytes = 5000;
        const auto ranks = static_cast<std::size_t>(group.count());
        const std::vector<std::byte> mine = block(group.rank(), 3, kBytes);
        const std::vector<std::byte> old(ranks * kBytes, std::byte{0x5a});
        std::vector<std::byte> all = old, seen;
        bool before = false;
        // Whoever reads the old bytes is done late, on one rank later than on others.
        const Request first = group.all_gather(mine, all, [&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(5 + 10 * group.rank()));
            seen = all;
            before = true;
        });
        std::vector<std::byte> again(ranks * kBytes);
        group.all_gather(mine, again, [&] { EXPECT_TRUE(before); }).wait();
        EXPECT_TRUE(first.done());
        EXPECT_TRUE(seen == old);
        EXPECT_TRUE(all == again);
    });
}

TEST_P(Collectives, ReduceScatterAndGatherSumExactly) {
    on_all_ranks([](Communicator& group) {
        constexpr std::size_t kOwn = 5003;
        const auto ranks = static_cast<std::size_t>(group.count());
        std::vector<std::int64_t> gradient(ranks * kOwn), parts(ranks * kOwn), sum(kOwn),
            total(ranks * kOwn);
        for (std::size_t i = 0; i < gradient.size(); ++i)
            gradient[i] = static_cast<std::int64_t>(i) * (group.rank() + 1);
        std::vector<SendPiece> sends;
        std::vector<RecvPiece> receives;
        for (std::size_t peer = 0; peer < ranks; ++peer) {
            sends.push_back({static_cast<int>(peer),
                             std::as_bytes(std::span(gradient).subspan(peer * kOwn, kOwn))});
            receives.push_back(
                {static_cast<int>(peer),
                 std::as_writable_bytes(std::span(parts).subspan(peer * kOwn, kOwn))});
        }
        group.exchange(std::move(sends), std::move(receives)).wait();
        for (std::size_t i = 0; i < parts.size(); ++i) sum[i % kOwn] += parts[i];
        group.all_gather(std::as_bytes(std::span(sum)), std::as_writable_bytes(std::span(total)))
            .wait();
        const std::int64_t factor = group.count() * (group.count() + 1) / 2;
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < total.size(); ++i)
            if (total[i] != static_cast<std::int64_t>(i) * factor) ++wrong;
        EXPECT_EQ(wrong, 0u);
    });
}

TEST_P(Collectives, ConveniencesCarryValuesAndStrings) {
    on_all_ranks([](Communicator& group) {
        group.barrier();
        const std::vector<double> values = group.all_gather_value(group.rank() * 1.5);
        const std::vector<std::string> texts =
            group.all_gather_strings(std::string(static_cast<std::size_t>(group.rank() * 3), 'x'));
        ASSERT_EQ(values.size(), static_cast<std::size_t>(group.count()));
        for (int rank = 0; rank < group.count(); ++rank) {
            EXPECT_EQ(values[static_cast<std::size_t>(rank)], rank * 1.5);
            EXPECT_EQ(texts[static_cast<std::size_t>(rank)].size(),
                      static_cast<std::size_t>(rank * 3));
        }
        const int root = group.count() - 1;
        std::string text = group.rank() == root ? "from the last" : "";
        group.broadcast_string(text, root);
        EXPECT_EQ(text, "from the last");
    });
}

TEST_P(Collectives, TrafficCountsPayloadOnceAndControlsApart) {
    on_all_ranks([](Communicator& group) {
        const auto others = static_cast<std::uint64_t>(group.count() - 1);
        const Traffic before = group.traffic();
        std::vector<std::byte> mine(1000), all(1000 * (others + 1)), extra(50), kept(50);
        group.all_gather(mine, all).wait();
        group.broadcast(mine, 0).wait();
        std::vector<RecvPiece> receives{{group.rank(), kept}};
        for (int rank = 0; rank < group.count() && group.rank() == 0; ++rank)
            receives.push_back(
                {rank, std::span(all).subspan(static_cast<std::size_t>(rank) * 1000, 1000)});
        group.exchange({{group.rank(), extra}, {0, mine}}, std::move(receives)).wait();
        group.barrier();
        const Traffic after = group.traffic();
        const bool root = group.rank() == 0;
        EXPECT_EQ(after.all_gathers - before.all_gathers, 1u);
        EXPECT_EQ(after.broadcasts - before.broadcasts, 1u);
        EXPECT_EQ(after.exchanges - before.exchanges, 1u);
        EXPECT_EQ(after.controls - before.controls, 1u);
        EXPECT_EQ(after.bytes_sent - before.bytes_sent,
                  root ? 2000 * others : 1000 * others + 1000);
        EXPECT_EQ(after.bytes_received - before.bytes_received,
                  root ? 2000 * others : 1000 * others + 1000);
        group.barrier();
    });
}

TEST_P(Collectives, ArgumentsAreCheckedBeforeAnythingIsSent) {
    on_all_ranks([](Communicator& group) {
        std::vector<std::byte> mine(10), all(10 * static_cast<std::size_t>(group.count()) + 1);
        EXPECT_THROW(group.all_gather(mine, all), BugError);
        EXPECT_THROW(group.broadcast(mine, group.count()), BugError);
        EXPECT_THROW(group.exchange({{-1, mine}}, {}), BugError);
        group.barrier();  // the group is still in step
    });
}

TEST_P(Collectives, MessagesBeyondTheLongestOneAreCut) {
    if (GetParam() != kMpi || mpi_group->count() != 2)
        GTEST_SKIP() << "costs memory; once is enough";
    const int other = 1 - mpi_group->rank();
    const std::size_t bytes = (130ul << 20) + 7;
    const std::vector<std::byte> mine = block(mpi_group->rank(), 1, bytes);
    std::vector<std::byte> theirs(bytes);
    mpi_group->exchange({{other, mine}}, {{other, theirs}}).wait();
    EXPECT_TRUE(theirs == block(other, 1, bytes));
}

/// Says what fails on a rank whose passing tests are nobody's interest.
class FailuresOnly : public testing::EmptyTestEventListener {
  public:
    explicit FailuresOnly(int rank) : rank_(rank) {}

  private:
    void OnTestPartResult(const testing::TestPartResult& result) override {
        if (!result.failed()) return;
        const char* file = result.file_name() == nullptr ? "?" : result.file_name();
        std::fprintf(stderr, "rank %d: %s:%d: Failure\n%s\n", rank_, file, result.line_number(),
                     result.message());
    }
    int rank_;
};

std::vector<int> transports() {
    return under_launcher() ? std::vector<int>{kMpi} : std::vector<int>{kSelf, 1, 2, 3, 4, 6, 8};
}

INSTANTIATE_TEST_SUITE_P(Transports, Collectives, testing::ValuesIn(transports()),
                         [](const testing::TestParamInfo<int>& ranks) {
                             return ranks.param == kMpi    ? std::string("Mpi")
                                    : ranks.param == kSelf ? std::string("Self")
                                                           : fmt::format("Threads{}", ranks.param);
                         });

}  // namespace

int main(int argc, char** argv) {
    if (Launch::by_file() && nccl_devices().empty()) {
        std::printf("%s: Skipped\nno GPU for NCCL\n", __FILE__);
        return 77;
    }
    Launch launch;
    testing::InitGoogleTest(&argc, argv);
    if (launch.rank() != 0) {
        auto& listeners = testing::UnitTest::GetInstance()->listeners();
        delete listeners.Release(listeners.default_result_printer());
        listeners.Append(new FailuresOnly(launch.rank()));
    }
    const char* transport = std::getenv("QSHARD_TEST_TRANSPORT");
    if (under_launcher()) mpi_group = launch.make_communicator(transport ? transport : "auto");
    const int failed = RUN_ALL_TESTS();
    if (failed != 0) std::fprintf(stderr, "rank %d failed\n", launch.rank());
    mpi_group.reset();
    return failed;
}
