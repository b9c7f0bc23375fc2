#include "comm/bench.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "base/error.h"

namespace qshard {
namespace {

/// Seconds of one call: best round of five, each as slow as its slowest rank.
double time_one(Communicator& communicator, int repeats, const std::function<void()>& call) {
    using Clock = std::chrono::steady_clock;
    double best = 1e30;
    for (int round = 0; round < 5; ++round) {
        communicator.barrier();
        const Clock::time_point start = Clock::now();
        for (int i = 0; i < repeats; ++i) call();
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        const std::vector<double> all = communicator.all_gather_value(seconds);
        best = std::min(best, *std::max_element(all.begin(), all.end()) / repeats);
    }
    return best;
}

}  // namespace

std::vector<LinkSpeed> bench_comm(Communicator& communicator, std::size_t largest_bytes) {
    const auto ranks = static_cast<std::size_t>(communicator.count());
    const auto self = static_cast<std::size_t>(communicator.rank());
    std::vector<std::byte> from(ranks * largest_bytes, std::byte{1});
    std::vector<std::byte> to(ranks * largest_bytes);
    std::vector<LinkSpeed> speeds;
    const auto add = [&](const std::string& name, std::size_t bytes, std::size_t received,
                         const std::function<void()>& call) {
        const double seconds = time_one(communicator, bytes > (256 << 10) ? 3 : 20, call);
        speeds.push_back(
            {name, bytes, seconds * 1e6, static_cast<double>(received) / seconds / 1e9});
    };
    add("barrier", 0, 0, [&] { communicator.barrier(); });
    for (std::size_t bytes = 8; bytes <= largest_bytes; bytes *= 8) {
        const std::size_t received = bytes * (ranks - 1);
        const std::span<std::byte> all(to.data(), ranks * bytes);
        add("all_gather", bytes, received,
            [&] { communicator.all_gather(all.subspan(self * bytes, bytes), all).wait(); });
        add("exchange", bytes, received, [&] {
            std::vector<SendPiece> sends;
            std::vector<RecvPiece> receives;
            for (std::size_t step = 1; step < ranks; ++step) {
                const std::size_t right = (self + step) % ranks;
                const std::size_t left = (self + ranks - step) % ranks;
                sends.push_back({static_cast<int>(right), {from.data() + right * bytes, bytes}});
                receives.push_back({static_cast<int>(left), all.subspan(left * bytes, bytes)});
            }
            communicator.exchange(std::move(sends), std::move(receives)).wait();
        });
    }
    return speeds;
}

std::string link_table(const Communicator& communicator, const std::vector<LinkSpeed>& speeds) {
    std::string table =
        fmt::format("{} ranks over {}\n{:<12}{:>14}{:>14}{:>10}\n", communicator.count(),
                    communicator.transport(), "operation", "bytes", "us", "GB/s");
    for (const LinkSpeed& speed : speeds)
        table += fmt::format("{:<12}{:>14}{:>14.1f}{:>10.2f}\n", speed.operation, speed.bytes,
                             speed.microseconds, speed.gigabytes_per_second);
    return table;
}

}  // namespace qshard
