#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/hash.h"
#include "comm/agree.h"
#include "train/flops.h"

namespace qshard {
namespace {

constexpr SectionKind kForwardBackward{"forward-backward", 0};
constexpr SectionKind kReduce{"reduce", 0};

/// Biases do not decay, as in transformers' Trainer.
std::vector<Stretch> stretches_of(const AdapterLayout& adapter) {
    std::vector<Stretch> stretches;
    const auto add = [&](std::int64_t end, bool decays) {
        const std::int64_t begin =
            stretches.empty() ? 0 : stretches.back().begin + stretches.back().count;
        if (begin < end && !stretches.empty() && stretches.back().decays == decays) {
            stretches.back().count += end - begin;
        } else if (begin < end) {
            stretches.push_back({begin, end - begin, decays});
        }
    };
    for (const TrainedWeight& weight : adapter.weights) {
        if (!is_bias(weight.role)) continue;
        add(weight.tensor.offset, true);
        add(weight.tensor.offset + weight.tensor.count(), false);
    }
    add(adapter.count, true);
    return stretches;
}

class Clock {
  public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    }

  private:
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace

/// Everything of a rank that owns a reservation in the arena.
struct Trainer::Parts {
    std::unique_ptr<FrozenBase> base;
    Arena::Handle parameters = 0;
    std::unique_ptr<SlotRunner> runner;
    std::unique_ptr<SlotTree> tree;  ///< null without training
    std::unique_ptr<Optimizer> optimizer;
};

Trainer::Trainer(Backend& backend, Communicator& group, const ModelConfig& config,
                 const LayoutOptions& layout_options, const AdapterOptions& adapter_options,
                 const TrainerOptions& options)
    : backend_(backend),
      group_(group),
      config_(config),
      layout_options_(layout_options),
      options_(options),
      layout_(make_layout(config, layout_options)),
      adapter_(make_adapter_layout(config, adapter_options)) {
    plan();
}

Trainer::~Trainer() = default;

std::int64_t Trainer::slots_of_a_rank(const TrainerOptions& options) const {
    return (options.max_step_slots + group_.count() - 1) / group_.count();
}

/// Of a group: where weights travel, all of a rank's slots go through a layer together, unless the
/// plan says less; else one.
std::int64_t Trainer::most_slots(const TrainerOptions& options) const {
    return options.placement == PlacementMode::kReplicated ? 1 : slots_of_a_rank(options);
}

/// The choice that takes the least memory. Groups of a gathered base are as large on every rank.
Trainer::Choice Trainer::smallest(const TrainerOptions& options) const {
    const bool streamed = options.placement == PlacementMode::kHostStreamed;
    return {options.recompute == Recompute::kNever ? 0 : config_.layers,
            streamed ? 1 : most_slots(options)};
}

std::unique_ptr<Trainer::Parts> Trainer::make_parts(const TrainerOptions& options,
                                                    const Choice& choice, Arena& arena) const {
    auto parts = std::make_unique<Parts>();
    const int world = group_.count();
    parts->base = std::make_unique<FrozenBase>(backend_, group_, layout_, options.placement, arena);
    const auto count = static_cast<std::size_t>(adapter_.count);
    parts->parameters = arena.reserve("adapter", count * sizeof(float));
    RunnerOptions runner;
    runner.compute = options.compute;
    runner.max_tokens = options.max_slot_tokens;
    runner.max_group_slots = choice.group_slots;
    runner.max_batch_slots = choice.batch_slots;
    runner.recomputed_layers = choice.recomputed_layers;
    runner.backward = options.train;
    parts->runner =
        std::make_unique<SlotRunner>(backend_, config_, layout_, &adapter_, runner, arena);
    if (options.train) {
        parts->tree = std::make_unique<SlotTree>(backend_, adapter_, group_.rank(), world,
                                                 options.max_step_slots, arena);
        parts->optimizer =
            std::make_unique<Optimizer>(backend_, options.optimizer, stretches_of(adapter_), arena);
    }
    return parts;
}

std::size_t Trainer::bytes_with(const TrainerOptions& options, const Choice& choice) const {
    Arena arena;
    return total_of(arena, *make_parts(options, choice, arena));
}

/// What saving takes of the memory that is planned. All ranks have one plan, though one of them
/// writes.
std::size_t Trainer::saving_bytes(const Parts& parts) const {
    if (!options_.saves || parts.optimizer == nullptr || !in_host_memory()) return 0;
    const std::size_t values = static_cast<std::size_t>(adapter_.count) * sizeof(float);
    // The values before training; the state, which turns into its file vector by vector, and one of
    // them twice. The adapter's folder: values before training, values, tensors, file.
    return std::max(3 * values + parts.optimizer->state_bytes(), 4 * values);
}

/// Of a base that stays in host memory, where that is the memory planned.
std::size_t Trainer::counted_host_bytes(const Parts& parts) const {
    return in_host_memory() ? parts.base->host_bytes() : 0;
}

std::size_t Trainer::total_of(const Arena& arena, const Parts& parts) const {
    return arena.total_bytes() + backend_.workspace_bytes() + saving_bytes(parts) +
           counted_host_bytes(parts);
}

std::vector<PlannedMemory> Trainer::plan_of(const Arena& arena, const Parts& parts) const {
    std::vector<PlannedMemory> plan = {{"base weights", 0},
                                       {"kernel workspace", backend_.workspace_bytes()},
                                       {"base weights on the host", counted_host_bytes(parts)},
                                       {"saving checkpoints", saving_bytes(parts)}};
    for (const Arena::Entry& entry : arena.entries()) {
        if (entry.name.starts_with("base ")) {
            plan[0].bytes += entry.bytes;
        } else {
            plan.push_back({entry.name, entry.bytes});
        }
    }
    std::erase_if(plan, [](const PlannedMemory& part) { return part.bytes == 0; });
    std::ranges::stable_sort(plan, std::greater(), &PlannedMemory::bytes);
    return plan;
}

std::vector<PlannedMemory> Trainer::memory_plan() const {
    return plan_of(*arena_, *parts_);
}

std::size_t Trainer::planned_bytes() const {
    return total_of(*arena_, *parts_);
}

bool Trainer::fits(const Choice& choice) const {
    return options_.memory_limit == 0 || bytes_with(options_, choice) <= options_.memory_limit;
}

/// The fewest layers to compute twice that fit, of a choice that fits with all of them; the need
/// falls with every layer that keeps nothing.
std::int64_t Trainer::fewest_recomputed(Choice choice) const {
    if (options_.recompute != Recompute::kAuto) return smallest(options_).recomputed_layers;
    std::int64_t low = 0, high = options_.train ? config_.layers : 0;
    while (low < high) {
        choice.recomputed_layers = (low + high) / 2;
        if (fits(choice)) {
            high = choice.recomputed_layers;
        } else {
            low = choice.recomputed_layers + 1;
        }
    }
    return low;
}

/// What a token takes, in passes of its products forward: one forward, one backward and the share
/// of a third that is computed again.
double Trainer::cost(const Choice& choice) const {
    const double again =
        static_cast<double>(choice.recomputed_layers) / static_cast<double>(config_.layers);
    const auto rows = static_cast<double>(choice.batch_slots *
                                          std::max<std::int64_t>(options_.max_slot_tokens, 1));
    return (2 + again) * (1 + static_cast<double>(backend_.fixed_rows()) / rows);
}

void Trainer::plan() {
    refuse_placement();
    choice_ = smallest(options_);
    // The fewest groups that fit, as the base travels once more with each.
    const std::int64_t most = most_slots(options_), least = choice_.group_slots;
    for (std::int64_t groups = 1; groups <= most; ++groups) {
        choice_.group_slots = std::max(least, (most + groups - 1) / groups);
        if (choice_.group_slots == least || fits(choice_)) break;
    }
    choice_.recomputed_layers = fewest_recomputed(choice_);
    choose_batch();
    const std::size_t needed = bytes_with(options_, choice_);
    if (options_.memory_limit > 0 && needed > options_.memory_limit) refuse(needed);
    arena_ = std::make_unique<DeviceArena>(backend_);
    parts_ = make_parts(options_, choice_, *arena_);
    const std::size_t host = options_.host_memory_limit;
    if (host > 0 && host_bytes() > host) {
        throw UserError(ExitCode::kUnavailable,
                        fmt::format("rank {} needs {} of the host's memory for the base, {} are "
                                    "free.\nTry fewer ranks a host, or placement.mode gathered.",
                                    group_.rank(), human_bytes(host_bytes()), human_bytes(host)));
    }
}

/// Slots of a batch: as many as the backend wants, or fewer where keeping activations is worth
/// more. A resident base needs no larger groups than those.
void Trainer::choose_batch() {
    const std::int64_t wanted =
        backend_.batch_rows() / std::max<std::int64_t>(options_.max_slot_tokens, 1);
    if (wanted <= 1) return;
    const bool grows = options_.placement == PlacementMode::kReplicated;
    const std::int64_t together = grows ? slots_of_a_rank(options_) : choice_.group_slots;
    for (std::int64_t batches = (together + wanted - 1) / wanted; batches < together;
         batches *= 2) {
        Choice choice = choice_;
        choice.batch_slots = (together + batches - 1) / batches;
        if (grows) choice.group_slots = choice.batch_slots;
        choice.recomputed_layers = smallest(options_).recomputed_layers;
        if (!fits(choice)) continue;
        choice.recomputed_layers = fewest_recomputed(choice);
        if (cost(choice) < cost(choice_)) choice_ = choice;
    }
}

void Trainer::refuse_placement() const {
    if (options_.placement != PlacementMode::kHostStreamed || !backend_.host_accessible()) return;
    throw UserError(
        ExitCode::kUnavailable,
        fmt::format("placement.mode host_streamed keeps the base in the host's memory for a GPU, "
                    "but backend {} computes in that memory anyway.\nTry placement.mode auto, or "
                    "backend cuda (qshard doctor tells which GPUs there are).",
                    backend_.name()));
}

void Trainer::refuse(std::size_t needed) const {
    Arena arena;
    const std::vector<PlannedMemory> plan = plan_of(arena, *make_parts(options_, choice_, arena));
    std::string parts;
    for (std::size_t i = 0; i < std::min<std::size_t>(5, plan.size()); ++i) {
        parts +=
            fmt::format("{}{} {}", i == 0 ? "" : ", ", plan[i].name, human_bytes(plan[i].bytes));
    }
    std::string tries;
    auto offer = [&](const std::string& what, const TrainerOptions& options, const Choice& choice) {
        const std::size_t bytes = bytes_with(options, choice);
        if (bytes < needed)
            tries +=
                fmt::format("{}{} ({})", tries.empty() ? "" : " or ", what, human_bytes(bytes));
    };
    if (options_.train && choice_.recomputed_layers < config_.layers)
        offer("train.recompute always", options_, {config_.layers, choice_.group_slots, 1});
    TrainerOptions smaller = options_;
    smaller.max_slot_tokens = std::max<std::int64_t>(1, options_.max_slot_tokens / 2);
    smaller.max_step_slots = options_.max_step_slots * 2;
    offer("half of train.micro_batch_size (or of data.max_length)", smaller,
          {choice_.recomputed_layers, smallest(smaller).group_slots, 1});
    smaller = options_;
    smaller.recompute = Recompute::kAuto;
    smaller.placement = PlacementMode::kGathered;
    if (options_.placement == PlacementMode::kReplicated && group_.count() > 1)
        offer("placement.mode gathered", smaller, smallest(smaller));
    smaller.placement = PlacementMode::kHostStreamed;
    if (options_.placement != PlacementMode::kHostStreamed && !in_host_memory())
        offer("placement.mode host_streamed", smaller, smallest(smaller));
    throw UserError(
        ExitCode::kUnavailable,
        fmt::format("rank {} needs {}, the limit is {}: {}, ...{}{}", group_.rank(),
                    human_bytes(needed), human_bytes(options_.memory_limit), parts,
                    tries.empty() ? "" : "\n        Try ", tries.empty() ? "" : tries + "."));
}

std::size_t Trainer::resident_base_bytes() const {
    return parts_->base->resident_bytes();
}

std::size_t Trainer::host_bytes() const {
    return parts_->base->host_bytes() - counted_host_bytes(*parts_);
}

bool Trainer::host_pinned() const {
    return parts_->base->host_pinned();
}

StepTraffic Trainer::planned_traffic(std::int64_t slot_count) const {
    check(parts_->tree != nullptr, "the trainer was made for training");
    StepTraffic traffic;
    const auto world = static_cast<std::size_t>(group_.count());
    const std::int64_t mine = slots_of(group_.rank(), group_.count(), slot_count).count();
    const auto groups =
        static_cast<std::uint64_t>((mine + choice_.group_slots - 1) / choice_.group_slots);
    for (const std::size_t unit : parts_->runner->units(true)) {
        if (options_.placement == PlacementMode::kGathered)
            traffic.gather += layout_.units[unit].shard_bytes(group_.count()) * (world - 1);
        if (options_.placement == PlacementMode::kHostStreamed)
            traffic.gather += layout_.units[unit].bytes * groups;
    }
    traffic.reduce = parts_->tree->bytes_received(slot_count);
    return traffic;
}

void Trainer::load(const WeightReader& reader, int threads, const ImportProgress& progress) {
    agree(group_, "taking memory", [&] { arena_->commit(); });
    parts_->base->load(reader, layout_options_, threads, progress);
    auto* parameters = reinterpret_cast<float*>(arena_->at(parts_->parameters));
    parts_->runner->start(parts_->base->source(), parameters);
    if (parts_->optimizer) parts_->optimizer->start();
}

std::string Trainer::base_fingerprint() {
    return parts_->base->fingerprint();
}

WeightSource& Trainer::weights() {
    return parts_->base->source();
}

void Trainer::set_adapter(std::span<const float> values) {
    check(static_cast<std::int64_t>(values.size()) == adapter_.count,
          "the adapter has the layout's length");
    backend_.upload(arena_->at(parts_->parameters), values.data(), values.size_bytes());
    parts_->runner->adapter_changed();
}

void Trainer::fill_from_base(std::span<float> values) {
    if (!adapter_.weights.empty()) {
        set_adapter(values);
        parts_->runner->copy_trained_weights(
            reinterpret_cast<float*>(arena_->at(parts_->parameters)));
        std::ranges::copy(adapter(), values.begin());
    }
    if (adapter_.rows == 0) return;
    set_adapter(values);
    const std::vector<float> norms = parts_->runner->row_norms();
    for (const AdapterTarget& target : adapter_.targets)
        std::copy_n(norms.begin() + target.first_row, target.out,
                    values.begin() + target.magnitude);
}

std::vector<float> Trainer::adapter() const {
    std::vector<float> values(static_cast<std::size_t>(adapter_.count));
    backend_.download(values.data(), arena_->at(parts_->parameters), values.size() * sizeof(float));
    return values;
}

const float* Trainer::adapter_values() const {
    return reinterpret_cast<const float*>(arena_->at(parts_->parameters));
}

Optimizer& Trainer::optimizer() {
    check(parts_->optimizer != nullptr, "the trainer was made for training");
    return *parts_->optimizer;
}

/// Every rank holds the sums of its own slots; the total is taken in slot order, which is rank
/// order.
double Trainer::sum_over_slots(const std::vector<double>& mine) {
    std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double));
    double total = 0;
    for (const std::string& part : group_.all_gather_strings(bytes)) {
        for (std::size_t i = 0; i < part.size() / sizeof(double); ++i) {
            double value = 0;
            std::memcpy(&value, part.data() + i * sizeof(double), sizeof(double));
            total += value;
        }
    }
    return total;
}

StepResult Trainer::step(const BatchSource& source, std::int64_t step, std::int64_t data_step,
                         Watchdog* watchdog) {
    const Clock whole;
    const Traffic before = group_.traffic();
    parts_->runner->take_seconds();  // of evaluations since the last step
    parts_->base->take_uploaded_bytes();
    StepResult result;
    result.info = source.step(data_step);
    result.learning_rate = learning_rate(options_.schedule, step);
    const SlotRange mine = slots_of(group_.rank(), group_.count(), result.info.slot_count);
    std::vector<Slot> slots;
    for (std::int64_t i = mine.begin; i < mine.end; ++i) slots.push_back(source.slot(data_step, i));
    result.seconds.data = whole.seconds();

    std::vector<double> losses(slots.size(), 0.0);
    parts_->tree->begin(result.info.slot_count);
    const float weight =
        -1.0f / static_cast<float>(std::max<std::int64_t>(result.info.supervised_tokens, 1));
    {
        const Section section(watchdog, kForwardBackward, step);
        const auto group_size = static_cast<std::size_t>(choice_.group_slots);
        // A gathered base is acquired together: a rank without slots goes through the units all the
        // same.
        const bool together = options_.placement == PlacementMode::kGathered;
        for (std::size_t begin = 0; begin < slots.size() || (together && begin == 0);
             begin += group_size) {
            const std::size_t count = std::min(group_size, slots.size() - begin);
            parts_->runner->train(
                std::span(slots).subspan(begin, count),
                {options_.seed, data_step, mine.begin + static_cast<std::int64_t>(begin)}, weight,
                [&](std::size_t i, std::span<const float> logprob) {
                    for (float value : logprob) losses[begin + i] -= double{value};
                },
                [&](std::size_t range, std::size_t i, const float* gradient) {
                    parts_->tree->add(mine.begin + static_cast<std::int64_t>(begin + i), range,
                                      gradient);
                });
        }
    }
    const RunnerSeconds runner = parts_->runner->take_seconds();
    Tensor gradient;
    {
        const Section section(watchdog, kReduce, step);
        const Clock clock;
        const Traffic gathered = group_.traffic();
        result.received.gather = gathered.bytes_received - before.bytes_received;
        gradient = parts_->tree->reduce(group_);
        result.loss = sum_over_slots(losses) /
                      static_cast<double>(std::max<std::int64_t>(result.info.supervised_tokens, 1));
        result.received.reduce = group_.traffic().bytes_received - gathered.bytes_received;
        result.seconds.reduce = clock.seconds();
    }
    const Clock clock;
    result.grad_norm = std::sqrt(backend_.sum_of_squares(gradient));
    result.finite = std::isfinite(result.grad_norm) && std::isfinite(result.loss);
    if (result.finite) {
        if (options_.max_grad_norm > 0) {
            const double factor = std::min(1.0, options_.max_grad_norm / (result.grad_norm + 1e-6));
            backend_.scale(gradient, static_cast<float>(factor));
        }
        const Tensor parameters(arena_->at(parts_->parameters), DType::kF32, {adapter_.count});
        parts_->optimizer->step(parameters, gradient, result.learning_rate, step + 1);
        parts_->runner->adapter_changed();
    }
    result.seconds.optimizer = clock.seconds();
    result.useful_flops = sum_over_slots({useful_flops(config_, &adapter_).of(slots)});
    StepSeconds& s = result.seconds;
    s.gather = runner.acquire;
    s.expand = runner.expand;
    s.forward = runner.forward;
    s.head = runner.head;
    s.backward = runner.backward;
    s.total = whole.seconds();
    s.other = std::max(0.0, s.total - (s.data + s.gather + s.expand + s.forward + s.head +
                                       s.backward + s.reduce + s.optimizer));
    result.received.gather += parts_->base->take_uploaded_bytes();
    return result;
}

EvalResult Trainer::evaluate(std::span<const Slot> slots) {
    const auto count = static_cast<std::int64_t>(slots.size());
    const SlotRange mine = slots_of(group_.rank(), group_.count(), count);
    const std::int64_t group_size = choice_.group_slots;
    const std::int64_t longest = (count + group_.count() - 1) / group_.count();
    const std::int64_t rounds = (longest + group_size - 1) / group_size;
    std::vector<double> losses(static_cast<std::size_t>(mine.count()), 0.0);
    for (std::int64_t round = 0; round < rounds; ++round) {
        const std::int64_t begin = std::min(mine.begin + round * group_size, mine.end);
        const std::int64_t length = std::min(group_size, mine.end - begin);
        if (length == 0 && options_.placement != PlacementMode::kGathered) break;
        parts_->runner->evaluate(
            slots.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(length)),
            [&](std::size_t i, std::span<const float> logprob) {
                double& loss = losses[static_cast<std::size_t>(begin - mine.begin) + i];
                for (float value : logprob) loss -= double{value};
            });
    }
    EvalResult result;
    for (const Slot& slot : slots) result.supervised_tokens += slot.supervised();
    result.loss = sum_over_slots(losses) /
                  static_cast<double>(std::max<std::int64_t>(result.supervised_tokens, 1));
    return result;
}

std::string human_bytes(std::size_t bytes) {
    const auto value = static_cast<double>(bytes);
    if (value >= 0x1p30) return fmt::format("{:.1f} GiB", value / 0x1p30);
    if (value >= 0x1p20) return fmt::format("{:.1f} MiB", value / 0x1p20);
    return fmt::format("{:.1f} KiB", value / 0x1p10);
}

std::string memory_table(const Trainer& trainer, std::size_t limit) {
    std::string table;
    for (const auto& [name, bytes] : trainer.memory_plan())
        table += fmt::format("  {:<34} {:>10}\n", name, human_bytes(bytes));
    const std::string suffix =
        limit > 0 ? fmt::format("  of {}", human_bytes(limit)) : std::string();
    table +=
        fmt::format("  {:<34} {:>10}{}\n", "total", human_bytes(trainer.planned_bytes()), suffix);
    if (trainer.host_bytes() > 0) {
        table += fmt::format("  {:<34} {:>10}\n", "beside it, the base on the host",
                             human_bytes(trainer.host_bytes()));
    }
    return table;
}

}  // namespace qshard
