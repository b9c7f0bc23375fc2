#include <gtest/gtest.h>

#include <cstring>

#include "main/cores.h"

namespace qshard {
namespace {

/// A rank on `host` that may run where `cores` has a '1'.
RankCores rank_on(const char* host, std::string_view cores) {
    RankCores rank{};
    std::strncpy(rank.host, host, sizeof rank.host - 1);
    for (std::size_t i = 0; i < cores.size(); ++i) {
        if (cores[i] == '1') CPU_SET(i, &rank.cores);
    }
    return rank;
}

TEST(ShareOfCores, RanksThatMayUseTheSameCoresShareThemEvenly) {
    const std::vector<RankCores> unbound(3, rank_on("node1", "11111111"));
    EXPECT_EQ(share_of_cores(unbound, unbound[0]), 2);

    // Two ranks on the cores of one socket, one on the other's.
    const std::vector<RankCores> sockets = {rank_on("node1", "1111"), rank_on("node1", "00001111"),
                                            rank_on("node1", "1111")};
    EXPECT_EQ(share_of_cores(sockets, sockets[0]), 2);
    EXPECT_EQ(share_of_cores(sockets, sockets[1]), 4);

    // Bound to cores of their own, as srun does.
    const std::vector<RankCores> bound = {rank_on("node1", "11"), rank_on("node1", "0011"),
                                          rank_on("node1", "000011")};
    for (const RankCores& rank : bound) EXPECT_EQ(share_of_cores(bound, rank), 2);
}

TEST(ShareOfCores, OtherHostsDoNotCountAndEveryRankHasOne) {
    const std::vector<RankCores> hosts = {rank_on("node1", "1111"), rank_on("node2", "1111"),
                                          rank_on("node10", "1111")};
    EXPECT_EQ(share_of_cores(hosts, hosts[1]), 4);
    const std::vector<RankCores> crowded(5, rank_on("node1", "11"));
    EXPECT_EQ(share_of_cores(crowded, crowded[4]), 1);
}

}  // namespace
}  // namespace qshard
