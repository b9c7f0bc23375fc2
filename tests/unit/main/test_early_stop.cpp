#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "main/early_stop.h"

namespace qshard {
namespace {

TEST(EarlyStop, StopsAfterSoManyEvaluationsWithoutABetterOne) {
    EarlyStop stop(2);
    EXPECT_TRUE(stop.add(10, 3.0));
    EXPECT_FALSE(stop.add(20, 3.0)) << "equal is not better";
    EXPECT_TRUE(stop.add(30, 2.5));
    EXPECT_FALSE(stop.add(40, std::numeric_limits<double>::quiet_NaN()));
    EXPECT_FALSE(stop.stops());
    EXPECT_FALSE(stop.add(50, 2.6));
    EXPECT_TRUE(stop.stops());
    EXPECT_EQ(stop.best_step(), 30);
    EXPECT_EQ(stop.best_loss(), 2.5);
}

TEST(EarlyStop, AFirstLossThatIsNotFiniteIsNotTheBest) {
    EarlyStop stop(3);
    EXPECT_FALSE(stop.add(1, std::numeric_limits<double>::infinity()));
    EXPECT_EQ(stop.best_step(), 0);
    EXPECT_TRUE(stop.add(2, 9.0));
}

TEST(EarlyStop, GoesOnFromTheCountersOfACheckpointAtAnyCut) {
    const std::vector<double> losses{5, 4, 4.5, 3, 3.5, 3.25, 3.125, 2};
    for (std::size_t cut = 0; cut <= losses.size(); ++cut) {
        EarlyStop before(3), after(3);
        std::map<std::string, double> counters;
        for (std::size_t i = 0; i < cut; ++i)
            before.add(static_cast<std::int64_t>(i) + 1, losses[i]);
        before.write(counters);
        after.read(counters);
        EXPECT_EQ(after.stops(), before.stops());
        for (std::size_t i = cut; i < 7 && !after.stops(); ++i)
            after.add(static_cast<std::int64_t>(i) + 1, losses[i]);
        if (cut <= 7) {
            EXPECT_EQ(after.best_step(), 4) << cut;
            EXPECT_TRUE(after.stops()) << cut;
        }
    }
    EarlyStop more(4);
    std::map<std::string, double> counters;
    EarlyStop three(3);
    for (std::size_t i = 0; i < 7; ++i) three.add(static_cast<std::int64_t>(i) + 1, losses[i]);
    three.write(counters);
    more.read(counters);
    EXPECT_FALSE(more.stops()) << "with more patience it goes on";
}

TEST(EarlyStop, KeepsNothingWhenItIsOff) {
    EarlyStop off;
    std::map<std::string, double> counters;
    off.write(counters);
    EXPECT_TRUE(counters.empty());
    EarlyStop on(1);
    on.read(counters);  // of a run without it
    EXPECT_EQ(on.best_step(), 0);
    EXPECT_FALSE(on.stops());
}

}  // namespace
}  // namespace qshard
