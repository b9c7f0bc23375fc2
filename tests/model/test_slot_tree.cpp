#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "backend/device_arena.h"
#include "comm/threads.h"
#include "train/optimizer.h"
#include "train/slot_tree.h"

namespace qshard {
namespace {

AdapterLayout layout_of(std::vector<std::int64_t> range_counts) {
    AdapterLayout layout;
    for (std::int64_t count : range_counts) {
        layout.range_begin.push_back(layout.count);
        layout.count += count;
    }
    layout.range_begin.push_back(layout.count);
    return layout;
}

/// A value whose sums round, so that another order gives other bits.
float value(std::int64_t slot, std::int64_t i) {
    return std::ldexp(1.0f + static_cast<float>((slot * 7919 + i * 104729) % 8191) / 8191.0f,
                      static_cast<int>((slot * 31 + i) % 13));
}

/// The definition, recursively: left + right, or left alone where no slot lies to the right.
float by_definition(std::int64_t begin, std::int64_t leaves, std::int64_t slots, std::int64_t i) {
    if (leaves == 1) return value(begin, i);
    const float left = by_definition(begin, leaves / 2, slots, i);
    if (begin + leaves / 2 >= slots) return left;
    return left + by_definition(begin + leaves / 2, leaves / 2, slots, i);
}

TEST(SlotTree, EqualsItsDefinitionForAnyNumberOfRanksAndSlots) {
    const AdapterLayout layout = layout_of({5, 0, 40, 12});
    for (const int world : {1, 2, 3, 4, 5, 6, 8}) {
        run_threads(world, [&](Communicator& group) {
            const auto backend = make_reference_backend();
            DeviceArena arena(*backend);
            SlotTree tree(*backend, layout, group.rank(), world, 13, arena);
            arena.commit();
            for (std::int64_t slots = 1; slots <= 13; ++slots) {
                tree.begin(slots);
                const SlotRange mine = slots_of(group.rank(), world, slots);
                for (std::size_t range = 4; range-- > 0;) {
                    for (std::int64_t s = mine.begin; s < mine.end; ++s) {
                        std::vector<float> gradient;
                        const std::int64_t begin = layout.range_begin[range];
                        for (std::int64_t i = 0; i < layout.range_count(range); ++i) {
                            gradient.push_back(value(s, begin + i));
                        }
                        tree.add(s, range, gradient.data());
                    }
                }
                const Tensor sum = tree.reduce(group);
                std::int64_t leaves = 1;
                while (leaves < slots) leaves *= 2;
                for (std::int64_t i = 0; i < layout.count; ++i) {
                    ASSERT_EQ(sum.as<float>()[i], by_definition(0, leaves, slots, i))
                        << world << " ranks, " << slots << " slots, element " << i;
                }
            }
        });
    }
}

TEST(SlotTree, RanksOwnContiguousSlotsOnceEach) {
    for (const int world : {1, 2, 3, 8}) {
        for (std::int64_t slots = 1; slots <= 20; ++slots) {
            std::int64_t next = 0;
            for (int rank = 0; rank < world; ++rank) {
                const SlotRange range = slots_of(rank, world, slots);
                EXPECT_EQ(range.begin, next);
                EXPECT_LE(range.count(), (slots + world - 1) / world);
                next = range.end;
            }
            EXPECT_EQ(next, slots);
        }
    }
}

TEST(Schedule, FollowsTransformers) {
    const ScheduleOptions cosine{LrScheduler::kCosine, 1.0, 2, 10};
    EXPECT_EQ(learning_rate(cosine, 0), 0.0);
    EXPECT_EQ(learning_rate(cosine, 1), 0.5);
    EXPECT_EQ(learning_rate(cosine, 2), 1.0);
    EXPECT_NEAR(learning_rate(cosine, 6), 0.5, 1e-12);
    EXPECT_NEAR(learning_rate(cosine, 10), 0.0, 1e-12);
    const ScheduleOptions linear{LrScheduler::kLinear, 2.0, 0, 4};
    EXPECT_EQ(learning_rate(linear, 0), 2.0);
    EXPECT_EQ(learning_rate(linear, 3), 0.5);
    EXPECT_EQ(learning_rate(linear, 9), 0.0);
    EXPECT_EQ(learning_rate({LrScheduler::kConstant, 3.0, 5, 10}, 0), 3.0);
    EXPECT_EQ(learning_rate({LrScheduler::kConstantWithWarmup, 3.0, 3, 10}, 1), 1.0);
}

}  // namespace
}  // namespace qshard
