#include <unistd.h>

#include <fstream>

#include "backend/cpu/peak.h"
#include "backend/cuda/cuda.h"
#include "comm/launch.h"
#include "io/checkpoint/atomic_file.h"
#include "main/commands.h"
#include "main/cores.h"
#include "main/session.h"
#include "main/version.h"
#include "train/trainer.h"

/// `qshard doctor`: what this machine offers to a run. Needs neither a launcher nor a model.
namespace qshard {
namespace {

namespace fs = std::filesystem;

struct Finding {
    std::string name, text;  ///< without a text: for scripts only
    boost::json::value value;
};

/// The value of the first line "key : value" of a file of /proc, or "unknown".
std::string field(const char* file, const std::string& key) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t colon = line.find(':');
        if (!line.starts_with(key) || colon == std::string::npos) continue;
        const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
        if (begin != std::string::npos) return line.substr(begin);
    }
    return "unknown";
}

std::string launcher() {
    if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
        return fmt::format("mpirun, {} ranks", std::getenv("OMPI_COMM_WORLD_SIZE"));
    const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
    const std::string count = tasks == nullptr ? "" : fmt::format(", {} tasks", tasks);
    if (Launch::under_launcher()) return "srun with PMI" + count;
    if (tasks != nullptr) return "srun without MPI" + count;
    return "none: started alone";
}

/// Free bytes of a folder after writing to it; nothing if it cannot be written to.
std::optional<std::uintmax_t> free_bytes(const fs::path& folder) {
    const fs::path probe = folder / fmt::format(".qshard-doctor-{}", getpid());
    try {
        write_file_atomic(probe, "qshard");
        fs::remove(probe);
    } catch (const Error&) {
        return std::nullopt;
    }
    std::error_code error;
    const fs::space_info space = fs::space(folder, error);
    return error ? std::nullopt : std::optional(space.available);
}

/// What the first GPU reaches, through the backend that training uses. False if it is none.
template <class Add>
bool examine_gpu(const Add& add) {
    constexpr std::int64_t kSide = 8192;
    try {
        const auto backend = make_cuda_backend({});
        const double rate = measure_peak_flops(*backend, kSide).best;
        add("gpu_gemm_flops", fmt::format("{:.0f} GFLOP/s in bf16 on GPU 0", rate / 1e9), rate);
        add("gpu_memory", fmt::format("{} for qshard", human_bytes(backend->memory_bytes())),
            backend->memory_bytes());
        return true;
    } catch (const Error& error) {
        add("gpu_gemm_flops", fmt::format("CANNOT BE USED: {}", error.what()), nullptr);
        return false;
    }
}

std::string peak_text(const PeakFlops& peak, int threads) {
    std::string text =
        fmt::format("{:.0f} GFLOP/s, {} threads, best of several", peak.best / 1e9, threads);
    if (disturbed(peak)) {
        text += fmt::format(
            "\nbusy: {:.0f} GFLOP/s while it was asked, because other programs run here too",
            peak.median / 1e9);
    }
    return text;
}

/// `code` becomes what is wrong, if anything is.
std::vector<Finding> examine(const std::string& folder, ExitCode& code) {
    std::vector<Finding> found;
    const auto add = [&](std::string name, std::string text, boost::json::value value) {
        found.push_back({std::move(name), std::move(text), std::move(value)});
    };
    const auto say = [&](std::string name, const std::string& text) {
        add(std::move(name), text, boost::json::value(text));
    };
    char host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    say("host", host);
    say("cpu", field("/proc/cpuinfo", "model name"));
    std::string isas;
    boost::json::array isa_list;
    for (std::string_view isa : cpu_isas()) {
        isas += fmt::format("{}{}", isas.empty() ? "" : ", ", isa);
        isa_list.push_back(boost::json::value(std::string(isa)));
    }
    add("kernels", isas + " (the first is taken)", isa_list);
    const int cores = usable_cores();
    add("cores", fmt::format("{} usable here", cores), cores);
    const auto backend = make_cpu_backend({cores, "auto"});
    const PeakFlops peak = measure_undisturbed_peak(*backend);
    add("bf16_gemm_flops", peak_text(peak, cores), peak.best);
    add("bf16_gemm_flops_median", "", peak.median);
    const std::size_t memory = default_memory_limit(*backend, 1);
    add("memory",
        fmt::format("{} for qshard (80 % of what is free or allowed)", human_bytes(memory)),
        memory);
    say("mpi", Launch::library());
    say("launcher", launcher());
    const CudaPlatform cuda = cuda_platform();
    std::string gpus;
    boost::json::array gpu_list;
    for (const CudaDevice& device : cuda.devices) {
        gpus +=
            fmt::format("{}{}, {}, compute capability {}.{}", gpus.empty() ? "" : "\n", device.name,
                        human_bytes(device.total_bytes), device.major, device.minor);
        gpu_list.push_back({{"name", device.name},
                            {"bytes", device.total_bytes},
                            {"capability", fmt::format("{}.{}", device.major, device.minor)}});
    }
    add("gpu", gpus.empty() ? "none: " + cuda.problem : gpus, gpu_list);
    if (!cuda.devices.empty() && !examine_gpu(add)) code = ExitCode::kUnavailable;
    const auto space = free_bytes(folder);
    if (!space) code = ExitCode::kCannotCreate;
    add("folder",
        space ? fmt::format("{}: {} free", fs::absolute(folder).lexically_normal().string(),
                            human_bytes(*space))
              : fmt::format("{}: CANNOT BE WRITTEN TO", folder),
        space ? boost::json::value(*space) : boost::json::value(nullptr));
    say("version", version_text());
    return found;
}

int doctor(const std::string& folder, bool json) {
    ExitCode code = ExitCode::kOk;
    boost::json::object object;
    std::string text;
    for (const Finding& finding : examine(folder, code)) {
        object[finding.name] = finding.value;
        if (finding.text.empty()) continue;
        std::string lines;
        for (char c : finding.text)
            lines += c == '\n' ? "\n" + std::string(18, ' ') : std::string(1, c);
        text += fmt::format("{:<16}  {}\n", finding.name, lines);
    }
    if (json) text = boost::json::serialize(object) + "\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return static_cast<int>(code);
}

}  // namespace

void add_doctor_command(Command program) {
    struct Arguments {
        std::string folder = ".";
        bool json = false;
    };
    auto arguments = std::make_shared<Arguments>();
    Command command =
        program.subcommand("doctor", "What this machine offers, and whether it will do");
    command.option("FOLDER", arguments->folder, "where a run would write (default: here)");
    command.flag("--json", arguments->json, "for scripts");
    command.action([arguments] { return doctor(arguments->folder, arguments->json); });
}

}  // namespace qshard
