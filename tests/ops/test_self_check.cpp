#include <gtest/gtest.h>

#include "backend/backend.h"
#include "backend/cpu/self_check.h"

namespace qshard {

TEST(SelfCheck, EveryKernelSetOfThisProcessorAgreesWithPlainLoops) {
    for (std::string_view isa : cpu_isas()) EXPECT_TRUE(kernels_agree(isa)) << isa;
}

}  // namespace qshard
