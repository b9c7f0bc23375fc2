#include "comm/launch.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "comm/agree.h"
#include "comm/mpi_communicator.h"
#include "comm/nccl_communicator.h"
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

/// The same for ranks that see the same GPUs.
std::string visible_devices(const std::string& host) {
    std::string text = host;
    for (const NcclDevice& device : nccl_devices()) text += " " + device.uuid;
    return text;
}

/// The driver's number of the GPU that the `place`-th of the ranks with the same GPUs takes.
int device_of(int place) {
    if (nccl_build().empty()) return 0;  // making a group says so
    const std::vector<NcclDevice> devices = nccl_devices();
    if (devices.empty()) {
        throw UserError(ExitCode::kUnavailable,
                        fmt::format("the transport is nccl, but {} has no GPU that qshard computes "
                                    "on (compute capability 7.5 or newer)",
                                    host_name()));
    }
    return devices[static_cast<std::size_t>(place) % devices.size()].index;
}

/// The group's id: rank 0 writes the file that the others wait for.
std::string id_by_file(int rank) {
    namespace fs = std::filesystem;
    const fs::path file = std::getenv("QSHARD_ID_FILE");
    if (rank == 0) {
        if (fs::exists(file)) {
            throw UserError(ExitCode::kUsage,
                            fmt::format("QSHARD_ID_FILE {} is there already: remove it, it may be "
                                        "an older group's",
                                        file.string()));
        }
        const std::string id = make_nccl_id();
        const fs::path unfinished = file.string() + ".part";
        std::ofstream(unfinished, std::ios::binary) << id;
        fs::rename(unfinished, file);
        return id;
    }
    constexpr int kSeconds = 60;
    for (int i = 0; i < kSeconds * 100; ++i) {
        if (fs::exists(file)) {
            std::ifstream in(file, std::ios::binary);
            return {std::istreambuf_iterator<char>(in), {}};
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    throw SystemError(ExitCode::kUnavailable,
                      fmt::format("rank 0 wrote no {} within {} s", file.string(), kSeconds));
}

/// What a launcher tells its processes: how many there are, and which this one is.
struct Starter {
    const char *count, *rank, *name;
    bool maybe_srun = false;
};

/// The launcher that started this process says it in a variable of its own; one that started the
/// shell or the script around it may have left others. The nearest one first.
constexpr Starter kStarters[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun of Open MPI"},
    {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "mpirun of MVAPICH2"},
    {"PMI_SIZE", "PMI_RANK", "a launcher that speaks PMI (mpiexec of MPICH or Intel MPI, or srun)",
     true},
    {"JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", "jsrun"},
    {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun", true},
};

int number_of(const char* variable) {
    const char* text = std::getenv(variable);
    return text == nullptr ? 0 : std::atoi(text);
}

/// Null without a launcher.
const Starter* starter() {
    for (const Starter& starter : kStarters) {
        if (!has(starter.count)) continue;
        // The shell that `srun --pty` opened is one task, whatever the step has.
        return starter.maybe_srun && has("SLURM_PTY_PORT") ? nullptr : &starter;
    }
    // torchrun and accelerate; the first of these names alone is anybody's.
    static constexpr Starter kTorch{"WORLD_SIZE", "RANK", "torchrun"};
    return has("WORLD_SIZE") && has("LOCAL_RANK") && has("MASTER_ADDR") ? &kTorch : nullptr;
}

/// More processes were started than this one finds: each would do the whole work, in the same
/// folder. The first speaks; the others wait until it has.
[[noreturn]] void refuse_strangers(const Starter& starter) {
    if (number_of(starter.rank) != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    std::string library = Launch::library();
    library = library.substr(0, library.find_first_of(",\n"));
    throw UserError(
        ExitCode::kUsage,
        fmt::format("{} started {} processes ({}), but each finds itself alone: this program runs "
                    "with {}, which does not know them.\nStart with: srun --mpi=pmix ..., or the "
                    "mpirun of that library. For processes that are meant to work alone, each on "
                    "its own: env -u {} qshard ...",
                    starter.name, number_of(starter.count), starter.count, library, starter.count));
}

}  // namespace

bool Launch::by_file() {
    return has("QSHARD_RANK") && has("QSHARD_WORLD") && has("QSHARD_ID_FILE");
}

bool Launch::under_launcher() {
    return has("OMPI_COMM_WORLD_SIZE") || has("PMIX_RANK") || has("PMI_RANK");
}

int Launch::processes() {
    const Starter* found = starter();
    return found == nullptr ? 1 : std::max(1, number_of(found->count));
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
    if (by_file()) {
        rank_ = std::atoi(std::getenv("QSHARD_RANK"));
        count_ = std::atoi(std::getenv("QSHARD_WORLD"));
        if (count_ < 1 || rank_ < 0 || rank_ >= count_) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format("QSHARD_RANK {} is no rank of QSHARD_WORLD {}", rank_, count_));
        }
        // Without MPI nobody knows who shares a host; one host is what this way is for.
        local_count_ = count_;
        local_rank_ = rank_;
        return;
    }
    if (!under_launcher()) {
        if (processes() > 1) refuse_strangers(*starter());
        return;
    }
    // Where there are more ranks than cores, MPI's own waits (initialisation, finalisation) must
    // yield too.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    // Ranks of a host that may not read each other's memory (containers) copy through fragments,
    // each of which waits for a poll of both communication threads: 32 KiB is too little.
    for (const char* name : {"OMPI_MCA_btl_vader_max_send_size", "OMPI_MCA_btl_sm_max_send_size"})
        setenv(name, "262144", 0);
    int provided = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        throw SystemError(ExitCode::kUnavailable, "MPI could not be initialised");
    mpi_ = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &count_);
    if (count_ == 1 && processes() > 1) {
        MPI_Finalize();
        refuse_strangers(*starter());
    }
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

std::unique_ptr<Communicator> Launch::make_communicator(const std::string& transport,
                                                        bool gpus) const {
    if (by_file()) {
        const int device = device_of(rank_);
        auto group = make_nccl_communicator(id_by_file(rank_), rank_, count_, device);
        // All have read it; an older one would keep the next start from finding its group.
        std::error_code ignored;
        if (rank_ == 0) std::filesystem::remove(std::getenv("QSHARD_ID_FILE"), ignored);
        return group;
    }
    if (transport == "mpi" && !mpi_) {
        throw UserError(ExitCode::kUsage,
                        "placement.transport is mpi, but no launcher started this process. Start "
                        "it with mpirun -np N or srun --mpi=pmix, or use transport auto.");
    }
    if (transport == "self" && count_ > 1) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("placement.transport is self, but {} ranks were started. Use "
                                    "transport auto.",
                                    count_));
    }
    if (transport == "nccl") {
        const std::unique_ptr<Communicator> group =
            count_ > 1 ? make_mpi_communicator() : make_self_communicator();
        return make_nccl(*group);
    }
    if (count_ == 1) return make_self_communicator();
    if (transport == "auto" && gpus && !nccl_build().empty()) {
        const std::unique_ptr<Communicator> group = make_mpi_communicator();
        const auto devices = static_cast<int>(nccl_devices().size());
        const bool fits = peers_with_same(*group, visible_devices(host_)).count <= devices;
        const std::vector<int> all = group->all_gather_value(fits ? 1 : 0);
        if (std::find(all.begin(), all.end(), 0) == all.end()) return make_nccl(*group);
    }
    return make_mpi_communicator();
}

std::unique_ptr<Communicator> Launch::make_nccl(Communicator& start) const {
    std::string id = rank_ == 0 ? make_nccl_id() : std::string();
    start.broadcast_string(id, 0);
    const int place = peers_with_same(start, visible_devices(host_)).place;
    return make_nccl_communicator(id, rank_, count_, device_of(place));
}

void Launch::abort(int code) const noexcept {
    if (code < 1 || code > 125) code = static_cast<int>(ExitCode::kBug);
    std::fflush(nullptr);
    abandon_nccl();
    if (mpi_) {
        // MPI_Abort asks a daemon that may be the dead part.
        try {
            std::thread([code] {
                std::this_thread::sleep_for(std::chrono::seconds(3));
                _exit(code);
            }).detach();
        } catch (const std::system_error&) {
            alarm(3);  // ends this process all the same
        }
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    _exit(code);
}

void Launch::abort_together(int code) const noexcept {
    if (rank_ != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
    abort(code);
}

}  // namespace qshard
