#include <gtest/gtest.h>

#include "main/cores.h"

namespace qshard {
namespace {

TEST(ShareOfCores, RanksThatMayUseTheSameCoresShareThemEvenly) {
    const std::vector<std::string> unbound(3, "node1 11111111");
    EXPECT_EQ(share_of_cores(unbound, unbound[0]), 2);

    // Two ranks on the cores of one socket, one on the other's.
    const std::vector<std::string> sockets = {"node1 1111", "node1 00001111", "node1 1111"};
    EXPECT_EQ(share_of_cores(sockets, sockets[0]), 2);
    EXPECT_EQ(share_of_cores(sockets, sockets[1]), 4);

    // Bound to cores of their own, as srun does.
    const std::vector<std::string> bound = {"node1 11", "node1 0011", "node1 000011"};
    for (const std::string& rank : bound) EXPECT_EQ(share_of_cores(bound, rank), 2);
}

TEST(ShareOfCores, OtherHostsDoNotCountAndEveryRankHasOne) {
    const std::vector<std::string> hosts = {"node1 1111", "node2 1111", "node10 1111"};
    EXPECT_EQ(share_of_cores(hosts, hosts[1]), 4);
    const std::vector<std::string> crowded(5, "node1 11");
    EXPECT_EQ(share_of_cores(crowded, crowded[4]), 1);
}

}  // namespace
}  // namespace qshard
