#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "main/memory_limit.h"
#include "main/time_limit.h"
#include "tests/temp_folder.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMiB = 1 << 20;

/// A machine with 1,000 MiB free, and what else a test writes.
struct Machine {
    Machine() {
        sources.proc = folder.path() / "proc";
        sources.cgroups = folder.path() / "cgroup";
        sources.variable = [this](const char* name) {
            const auto found = variables.find(name);
            return found == variables.end() ? nullptr : found->second.c_str();
        };
        write("proc/meminfo", "MemTotal: 9999999 kB\nMemAvailable:    1024000 kB\n");
    }
    void write(const std::string& name, const std::string& text) {
        fs::create_directories((folder.path() / name).parent_path());
        std::ofstream(folder.path() / name) << text;
    }
    /// In MiB, before the fifth that is left free.
    double limit(int ranks = 1) const {
        return static_cast<double>(host_memory_limit(sources, ranks)) / 0.8 / kMiB;
    }

    test::TempFolder folder;
    std::map<std::string, std::string> variables;
    MemorySources sources;
};

TEST(MemoryLimit, IsTheLeastOfMachineGroupsAndSlurm) {
    Machine machine;
    EXPECT_NEAR(machine.limit(), 1000, 1);
    EXPECT_NEAR(machine.limit(4), 250, 1);
    machine.variables["SLURM_MEM_PER_NODE"] = "900";
    EXPECT_NEAR(machine.limit(3), 300, 1);
    machine.sources.address_space = 200 * kMiB;  // each process has its own
    EXPECT_NEAR(machine.limit(1), 200, 1);
    EXPECT_NEAR(machine.limit(9), 100, 1);
    machine.write("proc/self/statm", std::to_string(50 * kMiB / 4096) + " 1 1");
    EXPECT_NEAR(machine.limit(1), 150, 1);
}

TEST(MemoryLimit, GroupsOfVersion2HoldForAllBeneathThem) {
    Machine machine;
    machine.write("proc/self/cgroup", "0::/system.slice/job_7/step_0/task\n");
    machine.write("cgroup/system.slice/memory.max", "max\n");
    machine.write("cgroup/system.slice/job_7/memory.max", "524288000\n");
    machine.write("cgroup/system.slice/job_7/step_0/task/memory.max", "max\n");
    EXPECT_NEAR(machine.limit(), 500, 1);
    machine.write("cgroup/system.slice/job_7/step_0/task/memory.max", "104857600\n");
    EXPECT_NEAR(machine.limit(), 100, 1);
    machine.write("cgroup/memory.max", "52428800\n");  // the container's own
    EXPECT_NEAR(machine.limit(), 50, 1);
}

TEST(MemoryLimit, GroupsOfVersion1AreTheMemoryControllersOwn) {
    Machine machine;
    machine.write("proc/self/cgroup",
                  "9:cpu,cpuacct:/other\n4:memory:/slurm/uid_0/job_7\n0::/unified\n");
    machine.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    machine.write("cgroup/memory/other/memory.limit_in_bytes", "1048576\n");
    machine.write("cgroup/memory/slurm/uid_0/memory.limit_in_bytes", "314572800\n");
    EXPECT_NEAR(machine.limit(), 300, 1);
    machine.write("cgroup/unified/unified/memory.max", "209715200\n");
    EXPECT_NEAR(machine.limit(), 200, 1);
}

TEST(MemoryLimit, SlurmCountsByCoreOrGpu) {
    Machine machine;
    machine.variables = {{"SLURM_MEM_PER_CPU", "100"}, {"SLURM_CPUS_ON_NODE", "6"}};
    EXPECT_NEAR(machine.limit(2), 300, 1);
    machine.variables = {{"SLURM_MEM_PER_CPU", "100"}, {"SLURM_CPUS_PER_TASK", "3"}};
    EXPECT_NEAR(machine.limit(2), 300, 1);
    machine.variables = {{"SLURM_MEM_PER_CPU", "8"}};
    EXPECT_NEAR(machine.limit(), 8, 1);
    machine.variables = {{"SLURM_MEM_PER_GPU", "200"}, {"SLURM_GPUS_ON_NODE", "2"}};
    EXPECT_NEAR(machine.limit(), 400, 1);
    machine.variables = {{"SLURM_MEM_PER_NODE", "0"}};  // all of the node
    EXPECT_NEAR(machine.limit(), 1000, 1);
}

TEST(TimeLimit, SlurmsEndHoldsIfItIsToCome) {
    const TimeLimit slurm = time_limit_of({}, "1500", 1000);
    EXPECT_EQ(slurm.seconds, 500);
    EXPECT_EQ(slurm.name, "SLURM_JOB_END_TIME");
    EXPECT_EQ(slurm.warning, "");
    const TimeLimit chosen = time_limit_of(60, "Unknown", 1000);
    EXPECT_EQ(chosen.seconds, 60);
    EXPECT_EQ(chosen.name, "checkpoint.time_limit");
    EXPECT_EQ(chosen.warning, "");
    const TimeLimit none = time_limit_of({}, nullptr, 1000);
    EXPECT_FALSE(none.seconds);
    EXPECT_EQ(none.warning, "");
}

TEST(TimeLimit, WhatIsNoTimeToComeIsIgnoredAndSaid) {
    for (const char* text :
         {"", "0", "-5", "Unknown", "1500 s", "1e9", "999", "1000", "99999999999999999999"}) {
        const TimeLimit limit = time_limit_of({}, text, 1000);
        EXPECT_FALSE(limit.seconds) << text;
        EXPECT_NE(limit.warning.find("SLURM_JOB_END_TIME"), std::string::npos) << text;
    }
    EXPECT_NE(time_limit_of({}, "940", 1000).warning.find("60 s ago"), std::string::npos);
}

}  // namespace
}  // namespace qshard
