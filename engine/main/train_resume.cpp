#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "comm/agree.h"
#include "io/run/run_changes.h"
#include "main/adapter_file.h"
#include "main/train_run.h"
#include "main/train_screen.h"

/// The part of TrainRun that finds out where a run stands: whose folder it is, from which
/// checkpoint it goes on, whether there is anything left to do.
namespace qshard {
namespace {

void say(const std::string& line) {
    std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace

void TrainRun::claim_output() {
    agree(group_, "claiming the output folder", [&] {
        if (!speaks()) return;
        const auto on_wait = [&](const std::string& holder) {
            say(fmt::format("waiting for the end of another run in {} ({})", run_.output, holder));
        };
        lock_ = std::make_unique<FolderLock>(run_.output, scheduler_job(), on_wait);
        if (!lock_->warning().empty()) say("warning: " + lock_->warning());
        found_ = find_run(run_.output, arguments_.resume, say);
    });
}

/// Rank 0's: that of the run to go on with, else today.
void TrainRun::share_template_date() {
    if (speaks()) template_date_ = local_date();
    if (found_.checkpoint) {
        try {
            const RecordedRun recorded = parse_recorded_run(found_.checkpoint->state.run_yaml);
            template_date_ = recorded.run.data.template_date.value_or(template_date_);
        } catch (const UserError&) {
            // check_resumed() says that it cannot be read.
        }
    }
    group_.broadcast_string(template_date_, 0);
}

RunFacts TrainRun::facts() const {
    RunFacts facts;
    facts.run = &run_;
    facts.base = inputs_->model.source.weights.get();
    facts.adapter = &trainer_->adapter_layout();
    facts.data_sha256 = inputs_->data->sha256();
    facts.validation_sha256 = inputs_->validation_sha256;
    facts.tokenizer_sha256 = inputs_->model.tokenizer ? inputs_->model.tokenizer->sha256() : "";
    facts.kernels = fmt::format("{} {}", backend_->name(), backend_->isa());
    facts.base_fingerprint = base_fingerprint_;
    return facts;
}

void TrainRun::check_resumed() {
    agree(group_, "comparing the run with its checkpoint", [&] {
        if (!found_.checkpoint) return;
        const LoadedCheckpoint& resumed = *found_.checkpoint;
        if (found_.own) check_same_run(found_.own->state, found_.own->file.string(), facts());
        for (const std::string& note :
             check_same_run(resumed.state, resumed.file.string(), facts()))
            say(note);
        const auto branch = resumed.state.identity.find("branched_from");
        if (branch != resumed.state.identity.end()) branched_from_ = branch->second;
        if (resumed.state.step <= inputs_->total_steps) return;
        throw UserError(
            ExitCode::kUsage,
            fmt::format("{} is at step {}, beyond the {} steps that this run is to have. Set "
                        "train.max_steps or train.epochs to no less, or go back to an older "
                        "checkpoint with --resume FILE.",
                        resumed.file.string(), resumed.state.step, inputs_->total_steps));
    });
}

/// SHA-256 of the values in adapter/, or "" if the results of a run are not all there. Rank 0 only.
std::string TrainRun::finished_adapter() const {
    const std::filesystem::path output = run_.output;
    if (!std::filesystem::exists(output / "report.html")) return "";
    try {
        const AdapterFile file = read_adapter_file(output / "adapter");
        return adapter_sha256(flat_values(file, fit_adapter(file, *inputs_->model.source.weights)));
    } catch (const Error&) {
        return "";  // to be written again
    }
}

/// UserError if the base that was loaded is not the checkpoint's.
void TrainRun::check_base(const CheckpointState& state) const {
    const auto it = state.identity.find("base_fingerprint");
    if (it == state.identity.end() || it->second == base_fingerprint_) return;
    throw UserError(fmt::format(
        "the quantized base is not the checkpoint's (fingerprint {} there, {} here): the model's "
        "files changed, or this build quantizes differently",
        it->second, base_fingerprint_));
}

/// Whether this run has ended already and its results are there: then nothing is touched, but the
/// base is loaded to see that it is still the same. Collective.
bool TrainRun::nothing_to_do() {
    int done = 0;
    std::string adapter;  ///< SHA-256 of its values
    if (found_.checkpoint && found_.status && !found_.chosen) {
        const CheckpointState& state = found_.checkpoint->state;
        early_.read(state.counters);
        const bool ended = early_.stops() || state.step == inputs_->total_steps;
        const bool written =
            found_.status->state == "finished" && found_.status->step == state.step;
        if (ended && written) adapter = finished_adapter();
        done = adapter.empty() ? 0 : 1;
    }
    if (group_.all_gather_value(done)[0] == 0) return false;
    load_model();
    agree(group_, "checking the base", [&] {
        if (found_.checkpoint) check_base(found_.checkpoint->state);
    });
    if (!speaks()) return true;
    const std::string line = fmt::format("nothing to do: this run {} step {} of {}\n",
                                         early_.stops() ? "stopped early at" : "finished at",
                                         found_.checkpoint->state.step, inputs_->total_steps);
    std::fputs((line + adapter_row(run_.output, adapter)).c_str(), stdout);
    std::fflush(stdout);
    return true;
}

/// Rank 0's state on every rank.
void TrainRun::share(CheckpointState& state) {
    struct Numbers {
        std::int64_t step, data_step, nonfinite, in_a_row, evaluated;
        EarlyStop::Facts early;
    };
    early_.read(state.counters);
    // Checkpoints of versions that evaluated before they saved do not say it.
    const auto evaluated = state.counters.find(kEvaluatedStep);
    Numbers numbers{state.step,
                    state.data_step,
                    state.nonfinite_steps,
                    state.nonfinite_in_a_row,
                    evaluated == state.counters.end()
                        ? state.step
                        : static_cast<std::int64_t>(evaluated->second),
                    early_.facts()};
    group_.broadcast(std::as_writable_bytes(std::span(&numbers, 1)), 0).wait();
    state.step = numbers.step;
    state.data_step = numbers.data_step;
    state.nonfinite_steps = numbers.nonfinite;
    state.nonfinite_in_a_row = numbers.in_a_row;
    early_.set(numbers.early);
    evaluated_step_ = numbers.evaluated;
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
    CheckpointState* resumed = found_.checkpoint ? &found_.checkpoint->state : nullptr;
    const bool resuming = group_.all_gather_value<int>(resumed != nullptr ? 1 : 0)[0] != 0;
    if (!resuming) {
        trainer_->set_adapter(initial_adapter_);
        return;
    }
    agree(group_, "checking the base", [&] {
        if (resumed == nullptr) return;
        check_base(*resumed);
        for (const std::string& name : trainer_->optimizer().state_names()) {
            const auto found = resumed->optimizer.find(name);
            if (found == resumed->optimizer.end() ||
                found->second.size() != initial_adapter_.size()) {
                throw UserError(fmt::format(
                    "the checkpoint has no optimizer state \"{}\" for this adapter", name));
            }
        }
    });
    CheckpointState state;
    if (resumed != nullptr) state = std::move(*resumed);
    share(state);
    trainer_->set_adapter(state.adapter);
    trainer_->optimizer().load(state.optimizer);
    first_step_ = status_step_ = state.step;
    nonfinite_steps_ = state.nonfinite_steps;
    nonfinite_in_a_row_ = state.nonfinite_in_a_row;
    if (speaks()) {
        last_loss_ = state.loss;
        saved_step_ = state.step;
        std::fprintf(stderr, "resuming from step %lld of %lld (%s)\n",
                     static_cast<long long>(first_step_),
                     static_cast<long long>(inputs_->total_steps), found_.checkpoint->file.c_str());
        found_.checkpoint.reset();
    }
}

}  // namespace qshard
