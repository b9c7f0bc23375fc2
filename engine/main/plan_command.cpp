#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>

#include "backend/cuda/cuda.h"
#include "comm/agree.h"
#include "main/commands.h"
#include "main/gemm_rate.h"
#include "main/progress.h"
#include "main/run_estimate.h"
#include "main/train_screen.h"

/// `qshard plan`: what a run takes of memory, network and time, before it is queued.
namespace qshard {
namespace {

constexpr double kStepShare = 0.7;  ///< of the products' rate is what whole steps reach
/// Bytes of the host that a process computing on a GPU takes for its libraries, the driver's
/// buffers, importing and saving.
constexpr double kBesideGpu = 4.0 * (1 << 30);

struct Arguments {
    std::string run_file, bandwidth = "10Gb/s";
    std::vector<std::string> overrides;
    std::optional<std::string> memory;
    std::optional<double> gflops;
    std::int64_t nodes = 1, ranks_per_node = 1;
    bool json = false;
};

/// How GPUs elsewhere are planned for where there is none, as on login nodes.
bool plans_for_absent_gpus(const RunFile& run) {
    return run.placement.backend == "cuda" && cuda_platform().devices.empty();
}

/// That of a rank of a full node.
std::unique_ptr<Backend> make_backend(const Arguments& arguments, const RunFile& run) {
    if (plans_for_absent_gpus(run)) {
        if (!arguments.memory && !run.placement.memory_limit) {
            throw UserError(
                ExitCode::kUsage,
                fmt::format("placement.backend is cuda, and here is no GPU to ask: {}.\nGive "
                            "--memory, what a rank may take of one of the GPUs to come (`qshard "
                            "doctor` says it there; of 80 GiB about 75GiB are left).",
                            cuda_platform().problem));
        }
        return make_planned_cuda_backend();
    }
    const int local_ranks = narrow<int>(arguments.ranks_per_node);
    const auto node = make_planning_communicator(0, local_ranks);
    return make_agreed_backend({run.placement.backend, run.placement.cpu_isa, run.placement.threads,
                                run.placement.ranks_per_gpu},
                               *node, local_ranks);
}

Cluster cluster_of(const Arguments& arguments, const RunFile& run, const RunInputs& inputs,
                   Backend& backend) {
    Cluster cluster;
    cluster.nodes = narrow<int>(arguments.nodes);
    cluster.ranks_per_node = narrow<int>(arguments.ranks_per_node);
    cluster.bandwidth = parse_bandwidth(arguments.bandwidth);
    if (arguments.memory) {
        const std::int64_t sharing =
            backend.host_accessible() ? arguments.ranks_per_node : run.placement.ranks_per_gpu;
        cluster.memory = static_cast<std::size_t>(parse_bytes(*arguments.memory) / sharing);
    } else if (run.placement.memory_limit) {
        cluster.memory = static_cast<std::size_t>(*run.placement.memory_limit);
    } else {
        cluster.memory = default_memory_limit(backend, cluster.ranks_per_node);
    }
    if (arguments.gflops) {
        cluster.flops = *arguments.gflops * 1e9;
    } else if (!plans_for_absent_gpus(run)) {
        const GemmRate rate = measure_gemm_rate(backend, inputs.model.config(),
                                                run.train.micro_batch_size * run.data.max_length,
                                                dtype_named(run.model.compute_dtype).value());
        cluster.flops = kStepShare * rate.flops_per_second;
    }
    return cluster;
}

std::string seconds_text(std::optional<double> seconds) {
    if (!seconds) return "?";
    return *seconds < 10 ? fmt::format("{:.2f} s", *seconds) : human_seconds(*seconds);
}

std::string bytes_text(double bytes) {
    return human_bytes(static_cast<std::size_t>(bytes));
}

std::string table(std::span<const RunEstimate> estimates, std::int64_t steps) {
    std::string text =
        fmt::format("{:<13} {:>15} {:>10} {:>14} {:>10} {:>10} {:>12}\n", "", "memory a rank",
                    "computing", "into a node", "takes", "a step", fmt::format("{} steps", steps));
    for (const RunEstimate& estimate : estimates) {
        text += fmt::format(
            "{:<13} {:>15} {:>10} {:>14} {:>10} {:>10} {:>12}\n", name_of(estimate.mode),
            human_bytes(estimate.bytes) + (estimate.fits ? "" : " (!)"),
            seconds_text(estimate.compute_seconds), bytes_text(estimate.node_bytes),
            seconds_text(estimate.network_seconds), seconds_text(estimate.step_seconds),
            estimate.run_seconds ? human_seconds(*estimate.run_seconds) : "?");
    }
    return text;
}

std::string rate_text(const Arguments& arguments, const Cluster& cluster) {
    if (cluster.flops == 0)
        return "how fast a rank computes is not known here: `qshard bench step` says it there, for "
               "--gflops";
    return fmt::format(
        "a rank is taken to do {:.4g} GFLOP/s ({})", cluster.flops / 1e9,
        arguments.gflops
            ? "--gflops"
            : fmt::format("{:.0f} % of the products' rate on this machine; for another "
                          "see `qshard bench step` there and --gflops",
                          100 * kStepShare));
}

/// What the table rests on, and what is wasted.
std::string remarks(const Arguments& arguments, const Cluster& cluster, std::int64_t slots,
                    const RunEstimate& any) {
    std::string text = fmt::format(
        "A step is {:.4g} useful GFLOP; {}.\n"
        "The network brings {} a second into a node. Layers travel while others are computed, "
        "gradients after that.\n",
        any.step_flops / 1e9, rate_text(arguments, cluster), bytes_text(cluster.bandwidth));
    if (cluster.memory > 0 && !any.fits)
        text +=
            fmt::format("(!) more than the {} a rank may have, with every layer computed twice\n",
                        human_bytes(cluster.memory));
    const std::int64_t ranks = cluster.ranks(), most = (slots + ranks - 1) / ranks;
    if (slots % ranks != 0) {
        text += fmt::format(
            "note: a step has {} slots (train.global_batch_size / train.micro_batch_size) for {} "
            "ranks: they are busy {:.0f} % of the time\n",
            slots, ranks, 100.0 * static_cast<double>(slots) / static_cast<double>(most * ranks));
    }
    return text;
}

/// With a quarter more memory and time, and five minutes to start in.
std::string next_command(const Arguments& arguments, const RunEstimate& estimate, bool gpus) {
    const double rank = static_cast<double>(estimate.host_bytes) +
                        (gpus ? kBesideGpu : static_cast<double>(estimate.bytes));
    const double mebibytes = 1.25 * rank * static_cast<double>(arguments.ranks_per_node) / 0x1p20;
    std::string text = fmt::format("next:\n  sbatch --nodes={} --ntasks-per-node={} --mem={:.0f}M",
                                   arguments.nodes, arguments.ranks_per_node, std::ceil(mebibytes));
    if (estimate.run_seconds) {
        const auto minutes =
            static_cast<std::int64_t>(std::ceil(*estimate.run_seconds * 1.25 / 60)) + 5;
        text += fmt::format(" --time={}:{:02}:00", minutes / 60, minutes % 60);
    }
    text +=
        fmt::format(" jobs/{} {}", gpus ? "train-gpu.sbatch" : "train.sbatch", arguments.run_file);
    for (const std::string& set : arguments.overrides) text += " --set " + set;
    return text + "\n";
}

boost::json::value json_of(std::optional<double> seconds) {
    return seconds ? boost::json::value(*seconds) : boost::json::value();
}

boost::json::object facts_of(const RunEstimate& estimate) {
    return {{"mode", name_of(estimate.mode)},
            {"fits", estimate.fits},
            {"planned_bytes", estimate.bytes},
            {"host_bytes", estimate.host_bytes},
            {"recomputed_layers", estimate.recomputed_layers},
            {"gather_bytes", estimate.received.gather},
            {"reduce_bytes", estimate.received.reduce},
            {"node_bytes", estimate.node_bytes},
            {"compute_seconds", json_of(estimate.compute_seconds)},
            {"network_seconds", estimate.network_seconds},
            {"step_seconds", json_of(estimate.step_seconds)},
            {"run_seconds", json_of(estimate.run_seconds)}};
}

int plan(const Arguments& arguments) {
    RunFile run = load_run_file(arguments.run_file, arguments.overrides);
    const RunInputs inputs(run);
    print_notes(inputs.model.notes, true);
    const auto backend = make_backend(arguments, run);
    const Cluster cluster = cluster_of(arguments, run, inputs, *backend);
    std::vector<RunEstimate> estimates;
    std::vector<PlacementMode> modes = {PlacementMode::kReplicated};
    if (cluster.ranks() > 1) modes.push_back(PlacementMode::kGathered);
    if (!backend->host_accessible()) modes.push_back(PlacementMode::kHostStreamed);
    const auto group = make_group_to_come(run, cluster);
    for (const PlacementMode mode : modes)
        estimates.push_back(estimate_run(run, inputs, *backend, *group, cluster, mode));
    PlacedTrainer placed;
    std::exception_ptr problem;
    try {
        placed = place_trainer(run, inputs, *backend, *group, {cluster.memory, 0});
    } catch (const AgreedError&) {
        problem = std::current_exception();
    }
    const auto chosen = std::ranges::find(estimates, placed.mode, &RunEstimate::mode);
    std::string text;
    if (arguments.json) {
        boost::json::array placements;
        for (const RunEstimate& estimate : estimates) placements.push_back(facts_of(estimate));
        const boost::json::object facts{
            {"nodes", arguments.nodes},
            {"ranks", cluster.ranks()},
            {"memory_limit", cluster.memory},
            {"rank_flops_per_second",
             cluster.flops > 0 ? boost::json::value(cluster.flops) : boost::json::value()},
            {"bytes_per_second", cluster.bandwidth},
            {"steps", inputs.total_steps},
            {"step_flops", estimates.front().step_flops},
            {"placements", std::move(placements)},
            {"chosen", problem ? boost::json::value() : boost::json::value(name_of(placed.mode))}};
        text = boost::json::serialize(facts) + "\n";
    } else {
        if (!problem) {
            text = start_screen({&run, &inputs, placed.trainer.get(), backend.get(), group.get(),
                                 placed.why, cluster.memory, terminal_width(STDOUT_FILENO)});
        }
        text += fmt::format("\n{} rank{} on {} node{}\n", cluster.ranks(),
                            cluster.ranks() == 1 ? "" : "s", cluster.nodes,
                            cluster.nodes == 1 ? "" : "s") +
                table(estimates, inputs.total_steps) + "\n" +
                remarks(arguments, cluster, slots_of_step(run), estimates.back());
        if (!problem) text += "\n" + next_command(arguments, *chosen, !backend->host_accessible());
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    if (problem) std::rethrow_exception(problem);
    return 0;
}

}  // namespace

void add_plan_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    Command command = program.subcommand(
        "plan", "What a run takes of memory, network and time, before it is queued");
    command.option("RUN.yaml", arguments->run_file, "the run file").required();
    command.option("--set", arguments->overrides,
                   "override a key of the run file: key.path=value (may repeat)");
    command.option("--nodes", arguments->nodes, "default: 1").between(1, 1 << 16);
    command.option("--ranks-per-node", arguments->ranks_per_node, "default: 1").between(1, 1024);
    command.option("--memory", arguments->memory,
                   "of a node, shared by its ranks; of a GPU, if they compute on GPUs (default: "
                   "placement.memory_limit, or what this machine has)");
    command.option("--bandwidth", arguments->bandwidth,
                   "of the network into a node, in bits or bytes (default: 10Gb/s)");
    command
        .option("--gflops", arguments->gflops,
                "useful GFLOP/s of a rank, as `qshard bench step` prints them (default: from the "
                "products' rate here; unknown for GPUs that are not here)")
        .between(0.001, 1e9);
    command.flag("--json", arguments->json, "for scripts");
    command.footer(
        "Prints the plan of the run as `qshard train --dry-run` does, on this machine "
        "alone. With placement.backend cuda it needs no GPU. Exits with 69 if it does not fit.");
    command.action([arguments] { return plan(*arguments); });
}

}  // namespace qshard
