#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "comm/agree.h"
#include "comm/bench.h"
#include "comm/launch.h"
#include "comm/signals.h"
#include "comm/watchdog.h"

// A job of a few steps whose rank `victim` gets into trouble at step 3. Run by test_comm_faults
// under mpirun:
//     comm_fault_program MODE VICTIM

using namespace qshard;

namespace {

constexpr SectionKind kStep{"step", 2};
constexpr SectionKind kSlow{"slow", 30};
constexpr int kSteps = 10;

void trouble(const std::string& mode, Watchdog& watchdog) {
    if (mode == "stop") raise(SIGSTOP);
    if (mode == "kill") raise(SIGKILL);
    if (mode == "segfault") raise(SIGSEGV);
    if (mode == "exit") _exit(3);
    if (mode == "spin") {
        for (volatile bool spin = true; spin;) {
        }
    }
    if (mode == "slow") {
        const Section slow(&watchdog, kSlow, 3);
        std::this_thread::sleep_for(std::chrono::seconds(4));
    }
    if (mode == "save") raise(SIGUSR1);
    if (mode == "alone")
        throw SystemError(ExitCode::kIo, fmt::format("the disk is full (pid {})", getpid()));
}

int run(const std::string& mode, int victim, const Launch& launch) {
    const std::unique_ptr<Communicator> group = launch.make_communicator();
    if (mode == "bench") {
        const std::string table = link_table(*group, bench_comm(*group));
        if (launch.rank() == 0) std::fputs(table.c_str(), stdout);
        return 0;
    }
    Watchdog watchdog(*group, {.limit_seconds = 2}, [&](const Culprit& culprit) {
        std::fprintf(stderr, "watchdog of rank %d: %s\n", launch.rank(), culprit.message().c_str());
        launch.abort(static_cast<int>(ExitCode::kPeerLost));
    });
    if (launch.rank() == victim) std::printf("victim pid %d\n", getpid());
    std::fflush(stdout);
    for (int step = 1; step <= kSteps; ++step) {
        const Section section(&watchdog, kStep, step);
        if (step == 3 && launch.rank() == victim) trouble(mode, watchdog);
        agree(*group, "step", [&] {
            if (mode == "throw" && step == 3 && launch.rank() == victim)
                throw UserError("data.jsonl:7: no prompt");
        });
        int asked = 0;
        for (const SignalRequest request : group->all_gather_value(signal_request()))
            asked = std::max(asked, static_cast<int>(request));
        if (asked > 0) {
            std::printf("rank %d saves step %d\n", launch.rank(), step);
            watchdog.stop();
            return static_cast<int>(ExitCode::kPreempted);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    watchdog.stop();
    if (launch.rank() == 0) std::puts("finished");
    return 0;
}

}  // namespace

int main(int, char** argv) {
    Launch launch;
    install_signal_flags();
    try {
        return run(argv[1], std::atoi(argv[2]), launch);
    } catch (const AgreedError& error) {
        if (launch.rank() == 0) std::fprintf(stderr, "error: %s\n", error.what());
        launch.abort_together(static_cast<int>(error.code()));
    } catch (const Error& error) {
        std::fprintf(stderr, "error: rank %d on %s: %s\n", launch.rank(), launch.host().c_str(),
                     error.what());
        launch.abort(static_cast<int>(error.code()));
    }
}
