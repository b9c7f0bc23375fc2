#include "comm/launch.h"

#include <mpi.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "comm/mpi_communicator.h"
#include "comm/stale_segments.h"

namespace qshard {
namespace {

bool has(const char* variable) {
    const char* value = std::getenv(variable);
    return value != nullptr && *value != '\0';
}

std::string host_name() {
    char name[256] = "unknown";
    gethostname(name, sizeof name - 1);
    return name;
}

}  // namespace

bool Launch::under_launcher() {
    return has("OMPI_COMM_WORLD_SIZE") || has("PMIX_RANK") || has("PMI_RANK");
}

std::string Launch::library() {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    std::string library(text);  // Open MPI counts the terminating zero
    library.erase(library.find_last_not_of(" \n") + 1);
    return library;
}

Launch::Launch() : host_(host_name()) {
    if (!under_launcher()) {
        const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
        if (tasks != nullptr && std::atoi(tasks) > 1)
            throw UserError(ExitCode::kUsage,
                            fmt::format("srun started {} tasks that cannot find each other.\n"
                                        "Start with: srun --mpi=pmix ... (or with mpirun)",
                                        tasks));
        return;
    }
    // Where there are more ranks than cores, MPI's own waits (initialisation, finalisation) must
    // yield too.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    int provided = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        throw SystemError(ExitCode::kUnavailable, "MPI could not be initialised");
    mpi_ = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &count_);
    MPI_Comm local = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local);
    MPI_Comm_rank(local, &local_rank_);
    MPI_Comm_size(local, &local_count_);
    MPI_Comm_free(&local);
    if (local_rank_ == 0) remove_stale_segments("/dev/shm", "/proc");
}

Launch::~Launch() {
    if (!mpi_) return;
    // Finalising waits for peers that may never come; after an error only abort() ends the job.
    if (std::uncaught_exceptions() > 0) abort(static_cast<int>(ExitCode::kBug));
    MPI_Finalize();
}

std::unique_ptr<Communicator> Launch::make_communicator() const {
    return count_ > 1 ? make_mpi_communicator() : make_self_communicator();
}

void Launch::abort(int code) const noexcept {
    if (code < 1 || code > 125) code = static_cast<int>(ExitCode::kBug);
    std::fflush(nullptr);
    if (mpi_) {
        // MPI_Abort asks a daemon that may be the dead part.
        std::thread([code] {
            std::this_thread::sleep_for(std::chrono::seconds(3));
            _exit(code);
        }).detach();
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    _exit(code);
}

void Launch::abort_together(int code) const noexcept {
    if (rank_ != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
    abort(code);
}

}  // namespace qshard
