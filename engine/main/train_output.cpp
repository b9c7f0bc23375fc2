#include <algorithm>
#include <cstdio>

#include "base/hash.h"
#include "comm/agree.h"
#include "comm/signals.h"
#include "io/checkpoint/atomic_file.h"
#include "io/peft/peft_config.h"
#include "main/adapter_file.h"
#include "main/train_run.h"
#include "main/train_screen.h"
#include "main/version.h"

/// The part of TrainRun that deals with the output folder: whose run it is, resuming, saving.
namespace qshard {
namespace {

constexpr SectionKind kStart{"start", 0};
constexpr SectionKind kSave{"save", 600};
constexpr double kSilenceSeconds = 60;

/// What is not in every run's identity: patterns, modules_to_save, bias.
std::string options_text(const RunFile::Adapter& adapter) {
    std::string text;
    for (const auto& [key, rank] : adapter.rank_pattern)
        text += fmt::format(" r({})={}", key, rank);
    for (const auto& [key, alpha] : adapter.alpha_pattern)
        text += fmt::format(" alpha({})={}", key, alpha);
    for (const std::string& name : adapter.modules_to_save) text += " saved=" + name;
    if (adapter.bias != "none") text += " bias=" + adapter.bias;
    return text;
}

/// What makes PEFT choose the modules of `layout`. It has no layers beside a pattern or all-linear,
/// names alone would choose modules of a wrapped model's vision part too, and of a pattern it keeps
/// only the names on a mixture.
void set_targets(PeftConfig& config, const RunFile::Adapter& adapter, const AdapterLayout& layout,
                 const ModelConfig& model) {
    config.exclude_modules = adapter.exclude_modules;
    config.exclude_pattern = adapter.exclude_pattern;
    config.layers_to_transform = parse_layers(adapter.layers);
    const bool everywhere = config.layers_to_transform.empty();
    if (everywhere) config.target_parameters = layout.options.target_parameters;
    for (const AdapterTarget& target : layout.targets) {
        // PEFT has no layers for parameters.
        if (target.is_parameter() && !everywhere) config.target_parameters.push_back(target.path());
    }
    if (adapter.target_pattern.empty() && !model.wrapped) {
        const std::vector<std::string>& names = layout.options.target_modules;
        const bool all = names == std::vector<std::string>{"all-linear"};
        config.target_modules = all ? target_names(layout) : names;
    } else if (everywhere && !model.wrapped && model.experts == 0) {
        config.target_pattern = adapter.target_pattern;
    } else {
        config.layers_to_transform.clear();
        for (const AdapterTarget& target : layout.targets) {
            if (!target.is_parameter()) config.target_modules.push_back(target.module);
        }
    }
}

}  // namespace

void TrainRun::prepare_output() {
    const std::filesystem::path output = run_.output;
    agree(group_, "preparing the output folder", [&] {
        if (!speaks()) return;
        make_folder(output);
        store_ = std::make_unique<CheckpointStore>(output / "checkpoints");
        const bool wanted = arguments_.resume != "never";
        if (arguments_.resume != "auto" && wanted) {
            resumed_ = CheckpointStore::load(arguments_.resume);
        } else if (!store_->list().empty()) {
            if (!wanted) {
                throw UserError(
                    ExitCode::kUsage,
                    fmt::format(
                        "{} holds checkpoints and --resume never was given. Choose another output "
                        "folder, or remove it.",
                        output.string()));
            }
            auto loaded = store_->load_newest(
                [](const std::filesystem::path& file, const std::string& reason) {
                    std::fprintf(stderr, "refused %s: %s; trying the one before\n", file.c_str(),
                                 reason.c_str());
                });
            if (loaded) resumed_ = std::move(loaded->state);
        }
        if (resumed_) check_identity(*resumed_);
        const auto status = read_run_status(output / "run_status.json");
        starts_without_progress_ = status ? status->starts_without_progress + 1 : 1;
        metrics_ = std::make_unique<MetricsLog>(output / "metrics.jsonl",
                                                resumed_ ? resumed_->metrics_bytes : 0,
                                                resumed_ ? resumed_->metrics_sha256 : "");
        if (!metrics_->warning().empty()) std::fprintf(stderr, "%s\n", metrics_->warning().c_str());
        write_file_atomic(output / "run.yaml", std::string_view(run_.to_yaml()));
        if (run_.log.tensorboard) events_ = std::make_unique<EventWriter>(output / "tensorboard");
        status_step_ = resumed_ ? resumed_->step : 0;
        write_status("running", 0, std::nullopt);
    });
    output_ready_ = true;
    if (group_.count() > 1 && launch_ != nullptr) {
        watchdog_ = std::make_unique<Watchdog>(group_, Watchdog::Options{kSilenceSeconds, 5},
                                               [this](const Culprit& culprit) { lost(culprit); });
        if (watchdog_->unheard() > 0 && speaks()) {
            std::fprintf(stderr,
                         "warning: heartbeats of %d ranks do not arrive (UDP blocked?); a silent "
                         "rank will not "
                         "be noticed\n",
                         watchdog_->unheard());
        }
        watchdog_->enter(kStart, 0);
    }
    if (run_.checkpoint.on_signal) install_signal_flags();
}

std::map<std::string, std::string> TrainRun::identity() const {
    const AdapterLayout& adapter = trainer_->adapter_layout();
    return {
        {"base_sha256", inputs_->model.source.weights->sha256()},
        {"data_sha256", inputs_->data->sha256()},
        {"tokenizer_sha256", inputs_->model.tokenizer ? inputs_->model.tokenizer->sha256() : ""},
        {"adapter", fmt::format("{} r={} alpha={} dropout={} rslora={} targets={} elements={}{}",
                                run_.adapter.use_dora ? "dora" : "lora", run_.adapter.r,
                                run_.adapter.alpha, run_.adapter.dropout, run_.adapter.use_rslora,
                                adapter.targets.size(), adapter.count, options_text(run_.adapter))},
        {"seed", fmt::format("{}", run_.train.seed)},
        {"optimizer", run_.train.optimizer},
        {"quantization",
         fmt::format("{}{} {}", run_.model.quantization,
                     base_form(run_.model).double_quant ? "+dq" : "", run_.model.compute_dtype)},
        {"batches", fmt::format("micro {} global {} length {}", run_.train.micro_batch_size,
                                run_.train.global_batch_size, run_.data.max_length)},
        {"kernels", fmt::format("{} {}", backend_->name(), backend_->isa())},
        {"run_sha256", sha256_hex(run_.identity_yaml())},
        {"base_name", run_.model.base},
        {"base_fingerprint", base_fingerprint_},
        {"engine_version", engine_version()}};
}

void TrainRun::check_identity(const CheckpointState& state) const {
    const auto mine = identity();
    std::string differing;
    for (const char* key : {"base_sha256", "data_sha256", "adapter", "seed", "optimizer",
                            "quantization", "batches"}) {
        const auto it = state.identity.find(key);
        const std::string theirs = it == state.identity.end() ? "(absent)" : it->second;
        if (theirs != mine.at(key)) {
            differing += fmt::format("\n        {}: {} there, {} here", key, theirs, mine.at(key));
        }
    }
    if (!differing.empty()) {
        throw UserError(fmt::format(
            "{} holds a checkpoint of another run:{}\n        Choose another output folder.",
            run_.output, differing));
    }
    const auto kernels = state.identity.find("kernels");
    if (kernels != state.identity.end() && kernels->second != mine.at("kernels")) {
        std::fprintf(stderr,
                     "warning: the checkpoint was made with kernels \"%s\", this run has \"%s\": "
                     "it goes on, but "
                     "its bits may differ from an uninterrupted run's\n",
                     kernels->second.c_str(), mine.at("kernels").c_str());
    }
    const auto run_sha = state.identity.find("run_sha256");
    if (run_sha != state.identity.end() && run_sha->second != mine.at("run_sha256")) {
        std::fprintf(stderr,
                     "note: settings changed since the checkpoint (see run.yaml in it); the new "
                     "ones hold from "
                     "here on\n");
    }
}

/// Rank 0's state on every rank.
void TrainRun::share(CheckpointState& state) {
    struct Numbers {
        std::int64_t step, data_step, nonfinite, in_a_row;
    } numbers{state.step, state.data_step, state.nonfinite_steps, state.nonfinite_in_a_row};
    group_.broadcast(std::as_writable_bytes(std::span(&numbers, 1)), 0).wait();
    state.step = numbers.step;
    state.data_step = numbers.data_step;
    state.nonfinite_steps = numbers.nonfinite;
    state.nonfinite_in_a_row = numbers.in_a_row;
    const auto count = static_cast<std::size_t>(trainer_->adapter_layout().count);
    state.adapter.resize(count);
    group_.broadcast(std::as_writable_bytes(std::span(state.adapter)), 0).wait();
    for (const std::string& name : trainer_->optimizer().state_names()) {
        std::vector<float>& moment = state.optimizer[name];
        moment.resize(count);
        group_.broadcast(std::as_writable_bytes(std::span(moment)), 0).wait();
    }
}

/// The initial adapter from a PEFT folder, a checkpoint or an output folder.
void TrainRun::start_from(const std::string& path) {
    const AdapterFile file = read_adapter_file(path);
    const AdapterLayout theirs = fit_adapter(file, *inputs_->model.source.weights);
    const AdapterLayout& mine = trainer_->adapter_layout();
    const auto bare_name = [](const AdapterTensor& t) { return unwrapped_name(t.name); };
    const bool same =
        theirs.count == mine.count &&
        std::equal(theirs.targets.begin(), theirs.targets.end(), mine.targets.begin(),
                   mine.targets.end(),
                   [](const AdapterTarget& a, const AdapterTarget& b) {
                       return unwrapped_name(a.module) == unwrapped_name(b.module) && a.r == b.r &&
                              a.scale == b.scale && a.has_magnitudes() == b.has_magnitudes();
                   }) &&
        std::ranges::equal(tensors_of(theirs), tensors_of(mine), {}, bare_name, bare_name);
    if (!same) {
        throw UserError(fmt::format(
            "the adapter {} has {}r {} and alpha {} on {} modules, this run {}r {} and alpha {} on "
            "{}: set adapter.r, alpha, use_rslora, use_dora, their patterns, target_modules, "
            "layers, modules_to_save and bias as it was trained",
            path, theirs.options.use_dora ? "DoRA, " : "", theirs.options.r, theirs.options.alpha,
            theirs.targets.size(), mine.options.use_dora ? "DoRA, " : "", mine.options.r,
            mine.options.alpha, mine.targets.size()));
    }
    initial_adapter_ = flat_values(file, theirs);
}

void TrainRun::resume() {
    const AdapterLayout& adapter = trainer_->adapter_layout();
    initial_adapter_.resize(static_cast<std::size_t>(adapter.count));
    initialize_adapter(adapter, run_.train.seed, initial_adapter_);
    trainer_->fill_from_base(initial_adapter_);
    agree(group_, "loading the adapter to start from", [&] {
        if (run_.adapter.init_from) start_from(*run_.adapter.init_from);
    });
    const bool resuming = group_.all_gather_value<int>(resumed_ ? 1 : 0)[0] != 0;
    if (!resuming) {
        trainer_->set_adapter(initial_adapter_);
        return;
    }
    agree(group_, "checking the base", [&] {
        if (!resumed_) return;
        const auto it = resumed_->identity.find("base_fingerprint");
        if (it != resumed_->identity.end() && it->second != base_fingerprint_) {
            throw UserError(
                fmt::format("the quantized base is not the checkpoint's (fingerprint {} there, "
                            "{} here): the "
                            "model's files changed, or this build quantizes differently",
                            it->second, base_fingerprint_));
        }
        for (const std::string& name : trainer_->optimizer().state_names()) {
            const auto found = resumed_->optimizer.find(name);
            if (found == resumed_->optimizer.end() ||
                found->second.size() != initial_adapter_.size()) {
                throw UserError(fmt::format(
                    "the checkpoint has no optimizer state \"{}\" for this adapter", name));
            }
        }
    });
    CheckpointState state;
    if (resumed_) state = std::move(*resumed_);
    resumed_.reset();
    share(state);
    trainer_->set_adapter(state.adapter);
    trainer_->optimizer().load(state.optimizer);
    first_step_ = state.step;
    nonfinite_steps_ = state.nonfinite_steps;
    nonfinite_in_a_row_ = state.nonfinite_in_a_row;
    if (speaks()) {
        last_loss_ = state.loss;
        saved_step_ = state.step;
        std::fprintf(stderr, "resuming from step %lld of %lld\n",
                     static_cast<long long>(first_step_),
                     static_cast<long long>(inputs_->total_steps));
    }
}

CheckpointState TrainRun::make_state(std::int64_t step, double loss) const {
    CheckpointState state;
    state.step = state.data_step = step;
    state.epoch = static_cast<double>(step) /
                  static_cast<double>(std::max<std::int64_t>(1, inputs_->data->steps_per_epoch()));
    state.seed = run_.train.seed;
    state.nonfinite_steps = nonfinite_steps_;
    state.nonfinite_in_a_row = nonfinite_in_a_row_;
    const AdapterLayout& layout = trainer_->adapter_layout();
    for (AdapterTensor& tensor : tensors_of(layout))
        state.tensors.push_back({std::move(tensor.name), tensor.shape, tensor.offset});
    state.adapter = trainer_->adapter();
    state.optimizer_name = run_.train.optimizer;
    state.optimizer = trainer_->optimizer().state();
    PeftConfig config;
    config.r = run_.adapter.r;
    config.alpha = run_.adapter.alpha;
    config.dropout = run_.adapter.dropout;
    config.use_rslora = run_.adapter.use_rslora;
    config.use_dora = run_.adapter.use_dora;
    config.fan_in_fan_out = inputs_->model.config().conv1d;
    config.init_lora_weights = run_.adapter.init_lora_weights;
    config.rank_pattern = layout.options.rank_pattern;
    config.alpha_pattern = layout.options.alpha_pattern;
    config.modules_to_save = run_.adapter.modules_to_save;
    config.bias = run_.adapter.bias;
    set_targets(config, run_.adapter, layout, inputs_->model.config());
    config.base_model = run_.model.base;
    state.adapter_config_json = peft_config_text(config);
    state.counters["data.rows"] = static_cast<double>(inputs_->data->stats().rows);
    state.run_yaml = run_.to_yaml();
    state.identity = identity();
    state.metrics_bytes = metrics_->bytes();
    state.metrics_sha256 = metrics_->sha256();
    state.loss = loss;
    state.created = utc_now();
    fill_update_norms(state, initial_adapter_);
    return state;
}

/// Silent divergence ends the run before it reaches a file.
void TrainRun::check_agreement(const std::string& sha256) {
    const std::vector<std::string> all = group_.all_gather_strings(sha256);
    for (std::size_t r = 1; r < all.size(); ++r) {
        if (all[r] == all[0]) continue;
        throw AgreedError(ExitCode::kRanksDisagree,
                          fmt::format("the adapters of rank 0 and rank {} differ after step "
                                      "{}: memory or processor of a "
                                      "node is at fault. The last checkpoint is good.",
                                      r, status_step_));
    }
}

void TrainRun::save(std::int64_t step, double loss) {
    const Section section(watchdog_.get(), kSave, step);
    const std::string sha256 = adapter_sha256(trainer_->adapter());
    check_agreement(sha256);
    agree(group_, "saving the checkpoint", [&] {
        if (!speaks() || step == saved_step_) return;
        metrics_->append(
            fmt::format(R"({{"step":{},"adapter_sha256":"{}"}})", step, sha256.substr(0, 16)));
        metrics_->sync();
        store_->save(make_state(step, loss), static_cast<int>(run_.checkpoint.keep));
        saved_step_ = step;
        starts_without_progress_ = 0;
        write_status("running", 0, std::nullopt);
    });
}

}  // namespace qshard
