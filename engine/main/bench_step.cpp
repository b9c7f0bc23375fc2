#include "main/bench_step.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>

#include "comm/agree.h"
#include "main/gemm_rate.h"
#include "main/random_model.h"
#include "train/trainer.h"

namespace qshard {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t half = values.size() / 2;
    return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Most bytes this process ever had in memory.
std::int64_t peak_resident_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) << 10;
    }
    return 0;
}

TrainerOptions trainer_options(const BenchArguments& arguments, std::int64_t slots,
                               const Backend& backend, int local_ranks) {
    TrainerOptions options;
    options.compute = arguments.compute();
    options.placement = meaning(kPlacementWords, arguments.placement);
    options.recompute = meaning(kRecomputeWords, arguments.recompute);
    options.memory_limit = default_memory_limit(backend, local_ranks);
    options.host_memory_limit = host_memory_limit(local_ranks);
    options.max_slot_tokens = arguments.max_length * arguments.micro_batch_size;
    options.max_step_slots = slots;
    options.schedule = {LrScheduler::kConstant, 1e-4, 0, arguments.steps + 1};
    return options;
}

/// Medians of the timed steps.
struct Figures {
    std::int64_t tokens = 0;
    double seconds = 0, tokens_per_second = 0, useful_flops_per_second = 0;
    boost::json::object sections;
};

Figures figures_of(const std::vector<StepResult>& steps) {
    const auto over = [&](const std::function<double(const StepResult&)>& value) {
        std::vector<double> values;
        for (const StepResult& step : steps) values.push_back(value(step));
        return median(std::move(values));
    };
    Figures figures;
    figures.tokens = steps.front().info.tokens;
    figures.seconds = over([](const StepResult& s) { return s.seconds.total; });
    figures.tokens_per_second = over(
        [](const StepResult& s) { return static_cast<double>(s.info.tokens) / s.seconds.total; });
    figures.useful_flops_per_second =
        over([](const StepResult& s) { return s.useful_flops / s.seconds.total; });
    const std::pair<const char*, double StepSeconds::*> sections[] = {
        {"data", &StepSeconds::data},     {"gather", &StepSeconds::gather},
        {"expand", &StepSeconds::expand}, {"forward", &StepSeconds::forward},
        {"head", &StepSeconds::head},     {"backward", &StepSeconds::backward},
        {"reduce", &StepSeconds::reduce}, {"optimizer", &StepSeconds::optimizer},
        {"other", &StepSeconds::other},   {"total", &StepSeconds::total}};
    for (const auto& section : sections) {
        figures.sections[section.first] =
            over([&](const StepResult& s) { return s.seconds.*section.second; });
    }
    return figures;
}

std::string table(const boost::json::object& result) {
    auto number = [&](const char* key) { return result.at(key).to_number<double>(); };
    std::string text = fmt::format(
        "{:.1f} tokens/s ({} tokens a step, {:.3f} s; median of {} steps)\n"
        "{:.1f} useful GFLOP/s, {:.0f} % of the {:.1f} GFLOP/s that this model's products reach "
        "alone\n"
        "memory {} resident at most, {} planned\n",
        number("tokens_per_second"), result.at("tokens").to_number<std::int64_t>(),
        number("step_seconds"), result.at("steps").to_number<std::int64_t>(),
        number("useful_flops_per_second") / 1e9, 100 * number("peak_share"),
        number("gemm_flops_per_second") / 1e9,
        human_bytes(result.at("resident_bytes").to_number<std::size_t>()),
        human_bytes(result.at("planned_bytes").to_number<std::size_t>()));
    if (const auto taken = result.at("device_bytes").to_number<std::size_t>(); taken > 0)
        text += fmt::format("memory {} of the device taken\n", human_bytes(taken));
    for (const auto& entry : result.at("seconds").as_object())
        text += fmt::format("  {:<10} {:8.4f} s\n", std::string(entry.key()),
                            entry.value().as_double());
    return text;
}

}  // namespace

std::unique_ptr<WeightReader> bench_weights(const BenchArguments& arguments) {
    if (arguments.model) return open_model(*arguments.model);
    return std::make_unique<RandomWeights>(config_of_shape(arguments.shape.value_or("135m")));
}

void bench_step(const BenchArguments& arguments, Communicator& group, int local_ranks) {
    const auto begin = Clock::now();
    std::unique_ptr<WeightReader> weights;
    agree(group, "opening the model", [&] { weights = bench_weights(arguments); });
    const auto backend = make_agreed_backend(arguments.backend, group, local_ranks);
    const std::int64_t slots = arguments.slots > 0 ? arguments.slots : group.count();
    AdapterOptions adapter;
    adapter.r = arguments.r;
    adapter.alpha = 2 * static_cast<double>(arguments.r);
    adapter.target_modules = {"all-linear"};
    std::unique_ptr<Trainer> trainer;
    agree(group, "planning the memory", [&] {
        const LayoutOptions layout = layout_options_for(
            *weights, quantization_named(arguments.quantization), true, arguments.compute());
        trainer =
            std::make_unique<Trainer>(*backend, group, weights->config(), layout, adapter,
                                      trainer_options(arguments, slots, *backend, local_ranks));
    });
    trainer->load(*weights, backend->threads(), {});
    std::vector<float> values(static_cast<std::size_t>(trainer->adapter_layout().count));
    initialize_adapter(trainer->adapter_layout(), 42, values);
    trainer->set_adapter(values);
    const RandomBatches batches(weights->config().vocabulary, slots, arguments.micro_batch_size,
                                arguments.max_length);
    std::vector<StepResult> steps;
    double first_step = 0;
    for (std::int64_t s = 0; s <= arguments.steps; ++s) {
        if (s == 0) first_step = since(begin);
        const StepResult result = trainer->step(batches, s, s, nullptr);
        if (s > 0) steps.push_back(result);
    }
    const std::int64_t resident = peak_resident_bytes();
    const std::size_t taken = backend->taken_bytes();
    const Figures figures = figures_of(steps);
    boost::json::object result{
        {"model", arguments.model ? *arguments.model : arguments.shape.value_or("135m")},
        {"backend", std::string(backend->name())},
        {"isa", std::string(backend->isa())},
        {"threads", backend->threads()},
        {"ranks", group.count()},
        {"placement", arguments.placement},
        {"quantization", arguments.quantization},
        {"compute_dtype", arguments.compute_dtype},
        {"max_length", arguments.max_length},
        {"micro_batch_size", arguments.micro_batch_size},
        {"r", arguments.r},
        {"slots", slots},
        {"group_slots", trainer->group_slots()},
        {"batch_slots", trainer->batch_slots()},
        {"recomputed_layers", trainer->recomputed_layers()},
        {"steps", steps.size()},
        {"tokens", figures.tokens},
        {"step_seconds", figures.seconds},
        {"tokens_per_second", figures.tokens_per_second},
        {"useful_flops_per_second", figures.useful_flops_per_second},
        {"resident_bytes", resident},
        {"device_bytes", taken},
        {"planned_bytes", trainer->planned_bytes()},
        {"resident_base_bytes", trainer->resident_base_bytes()},
        {"host_bytes", trainer->host_bytes()},
        {"host_pinned", trainer->host_pinned()},
        {"gather_bytes", steps.back().received.gather},
        {"seconds_to_first_step", first_step},
        {"loss", steps.back().loss},
        {"seconds", figures.sections}};
    trainer.reset();  // its memory may be all that there is, and products want some
    double rate = 0;
    const double mine =
        measure_gemm_rate(*backend, weights->config(),
                          arguments.max_length * arguments.micro_batch_size, arguments.compute())
            .flops_per_second;
    for (double one : group.all_gather_value(mine)) rate += one;
    if (group.rank() != 0) return;
    result["gemm_flops_per_second"] = rate;
    result["peak_share"] = figures.useful_flops_per_second / rate;
    const std::string text = arguments.json ? boost::json::serialize(result) + "\n" : table(result);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

void bench_gemm(const BenchArguments& arguments) {
    const auto weights = bench_weights(arguments);
    const auto self = make_self_communicator();
    const auto backend = make_agreed_backend(arguments.backend, *self, 1);
    const std::int64_t rows = arguments.max_length * arguments.micro_batch_size;
    const GemmRate rate = measure_gemm_rate(*backend, weights->config(), rows, arguments.compute());
    boost::json::array shapes;
    std::string text = fmt::format(
        "{} {}, {} threads, {} tokens, {}\n{:<10} {:>7} {:>7} {:>16} {:>16}\n", backend->name(),
        backend->isa(), backend->threads(), rows, arguments.compute_dtype, "weight", "out", "in",
        "forward GFLOP/s", "backward GFLOP/s");
    for (const GemmShape& shape : rate.shapes) {
        const double forward = shape.flops(rows) / shape.seconds_forward,
                     backward = shape.flops(rows) / shape.seconds_backward;
        text += fmt::format("{:<10} {:>7} {:>7} {:>16.1f} {:>16.1f}\n", shape.name, shape.out,
                            shape.in, forward / 1e9, backward / 1e9);
        shapes.push_back({{"name", shape.name},
                          {"out", shape.out},
                          {"in", shape.in},
                          {"forward_flops_per_second", forward},
                          {"backward_flops_per_second", backward}});
    }
    text += fmt::format("as a step uses them: {:.1f} GFLOP/s\n", rate.flops_per_second / 1e9);
    if (arguments.json) {
        const boost::json::object result{{"backend", std::string(backend->name())},
                                         {"isa", std::string(backend->isa())},
                                         {"threads", backend->threads()},
                                         {"rows", rows},
                                         {"gemm_flops_per_second", rate.flops_per_second},
                                         {"shapes", shapes}};
        text = boost::json::serialize(result) + "\n";
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace qshard
