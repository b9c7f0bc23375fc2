#include "main/train_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "io/checkpoint/state.h"
#include "main/eval_report.h"
#include "main/progress.h"
#include "main/train_screen.h"
#include "main/version.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

bool evaluated(const ReportFacts& f) {
    return f.after.supervised_tokens > 0;
}

std::string joined(const std::vector<std::string>& names) {
    return fmt::format("{}", fmt::join(names, ", "));
}

std::string rows_text(std::int64_t rows) {
    return fmt::format("{} row{}", grouped(rows), rows == 1 ? "" : "s");
}

Report::Group model_group(const ReportFacts& f) {
    const ModelConfig& config = f.inputs->model.config();
    return {"Model",
            {{"base", f.run->model.base},
             {"architecture", fmt::format("{}, {} layers, width {}, vocabulary {}", config.family,
                                          config.layers, config.width, config.vocabulary)},
             {"held as", fmt::format("{}, {}; {} on a rank", describe(base_form(f.run->model)),
                                     human_bytes(f.trainer->layout().bytes()),
                                     human_bytes(f.trainer->resident_base_bytes()))},
             {"computed in", f.run->model.compute_dtype}}};
}

Report::Group adapter_group(const ReportFacts& f) {
    const RunFile::Adapter& adapter = f.run->adapter;
    const AdapterLayout& layout = f.trainer->adapter_layout();
    const std::int64_t trainable = layout.count, all = parameter_count(f.inputs->model.config()) +
                                                       trainable - layout.bias_count();
    Report::Group group = {
        "Adapter",
        {{"kind", fmt::format("{}, r {}, alpha {}{}", adapter.use_dora ? "DoRA" : "LoRA", adapter.r,
                              adapter.alpha, adapter.use_rslora ? ", rsLoRA" : "")},
         {"modules", fmt::format("{} of {}", layout.targets.size(), joined(target_names(layout)))},
         {"trained",
          fmt::format("{} of {} values ({:.4f} %)", grouped(trainable), grouped(all),
                      100.0 * static_cast<double>(trainable) / static_cast<double>(all))}}};
    if (adapter.dropout > 0)
        group.facts.emplace_back("dropout", fmt::format("{}", adapter.dropout));
    if (!adapter.modules_to_save.empty())
        group.facts.emplace_back("trained whole", joined(adapter.modules_to_save));
    if (adapter.bias != "none") group.facts.emplace_back("biases", adapter.bias);
    if (adapter.init_from) group.facts.emplace_back("started from", *adapter.init_from);
    group.facts.emplace_back("SHA-256", f.adapter_sha256);
    if (!f.which_adapter.empty()) group.facts.emplace_back("its values", f.which_adapter);
    return group;
}

Report::Group data_group(const ReportFacts& f) {
    const RunFile::Data& data = f.run->data;
    const TrainingSet& set = *f.inputs->data;
    const SplitStats& stats = set.stats();
    Report::Group group{"Data", {}};
    for (const DataFile& file : data.train) {
        group.facts.emplace_back(
            "train",
            file.weight == 1 ? file.path : fmt::format("{} (weight {})", file.path, file.weight));
    }
    group.facts.emplace_back(
        "rows", fmt::format("{}, {} tokens, {:.0f} % of them supervised; longest {}",
                            grouped(stats.rows), grouped(stats.tokens),
                            100.0 * static_cast<double>(stats.supervised) /
                                static_cast<double>(std::max<std::int64_t>(1, stats.tokens)),
                            grouped(stats.longest)));
    group.facts.emplace_back(
        "cut and dropped",
        fmt::format("{} truncated to {} tokens, {} dropped for their length, {} without loss",
                    grouped(stats.truncated.count), data.max_length, grouped(stats.skipped.count),
                    grouped(stats.answer_cut.count + stats.without_loss.count)));
    if (f.inputs->validation_rows > 0) {
        group.facts.emplace_back(
            "validation",
            fmt::format("{}, {}", rows_text(f.inputs->validation_rows),
                        data.validation_file.value_or(fmt::format(
                            "held back ({} of train)", data.validation_fraction.value_or(0)))));
    } else {
        group.facts.emplace_back("validation", "none");
    }
    if (data.test) group.facts.emplace_back("test", *data.test);
    group.facts.emplace_back("read as",
                             fmt::format("{}, loss on {}, {}", data.format, data.loss_on,
                                         data.packing ? fmt::format("packed ({:.0f} % full)",
                                                                    100 * set.packing_efficiency())
                                                      : std::string("one row a sequence")));
    return group;
}

Report::Group training_group(const ReportFacts& f) {
    const RunFile::Train& train = f.run->train;
    const std::int64_t an_epoch = std::max<std::int64_t>(1, f.inputs->data->steps_per_epoch());
    const std::string warmup = train.warmup_steps
                                   ? fmt::format("{} steps", *train.warmup_steps)
                                   : fmt::format("{} of the steps", train.warmup_ratio);
    std::string optimizer = fmt::format("{}, weight decay {}", train.optimizer, train.weight_decay);
    if (train.optimizer == "adamw")
        optimizer += fmt::format(", betas {}", fmt::join(train.betas, " and "));
    return {
        "Training",
        {{"steps", fmt::format("{} of {} ({:.2f} epochs, {} steps each)", grouped(f.steps),
                               grouped(f.inputs->total_steps),
                               static_cast<double>(f.steps) / static_cast<double>(an_epoch),
                               grouped(an_epoch))},
         {"batch size", fmt::format("{} a step, in micro-batches of {}",
                                    rows_text(train.global_batch_size), train.micro_batch_size)},
         {"learning rate",
          fmt::format("{}, {}, warmup {}", train.learning_rate, train.lr_scheduler_type, warmup)},
         {"optimizer", optimizer},
         {"gradient clipped at", fmt::format("{}", train.max_grad_norm)},
         {"seed", fmt::format("{}", train.seed)},
         {"last loss", fmt::format("{:.4f}", f.loss)}}};
}

/// The job as its scheduler numbers it, or "".
std::string job_text() {
    constexpr std::pair<const char*, const char*> kJobs[] = {
        {"SLURM_JOB_ID", "Slurm"}, {"PBS_JOBID", "PBS"}, {"LSB_JOBID", "LSF"}};
    for (const auto& [variable, scheduler] : kJobs) {
        const char* id = std::getenv(variable);
        if (id != nullptr && *id != '\0') return fmt::format("{} job {}", scheduler, id);
    }
    return "";
}

Report::Group run_group(const ReportFacts& f) {
    char host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    const std::string job = job_text();
    Report::Group group = {
        "Run",
        {{"finished", utc_now()},
         {"time",
          human_seconds(f.seconds) +
              (f.first_step > 0 ? fmt::format(" since it was resumed from step {}", f.first_step)
                                : "")},
         {"qshard", engine_version()},
         {"host", job.empty() ? std::string(host) : fmt::format("{}, {}", host, job)},
         {"ranks",
          fmt::format("{} (transport {}), {} thread{} each", f.group->count(), f.group->transport(),
                      f.backend->threads(), f.backend->threads() == 1 ? "" : "s")},
         {"kernels", fmt::format("{} {}", f.backend->name(), f.backend->isa())},
         {"output", f.run->output}}};
    return group;
}

/// The examples as what an evaluation of them found.
EvalSummary summary_of(std::span<const Report::Example> examples, bool after, bool masks) {
    std::vector<EvalExample> rows;
    EvalSubject subject;
    for (const Report::Example& example : examples) {
        rows.push_back({example.prompt, example.expected});
        subject.answers.push_back({0, 0, after ? example.after : example.before});
    }
    return summarize(rows, subject, masks);
}

/// Loss and perplexity of all validation rows; the run file's metrics of the few rows that were
/// answered, which are labelled as what they are.
void add_evaluation(Report& report, const ReportFacts& f) {
    const auto& metrics = f.run->eval.generate_metrics;
    const auto wanted = [&](const char* metric) {
        return std::ranges::find(metrics, metric) != metrics.end();
    };
    if (evaluated(f)) {
        report.evaluation = {
            {"validation, " + rows_text(f.inputs->validation_rows), "before", "after"},
            {"loss", fmt::format("{:.4f}", f.before.loss), fmt::format("{:.4f}", f.after.loss)},
            {"perplexity", fmt::format("{:.2f}", std::exp(f.before.loss)),
             fmt::format("{:.2f}", std::exp(f.after.loss))}};
    }
    if (f.examples.empty() || metrics.empty()) return;
    const bool masks = wanted("masks");
    const EvalSummary before = summary_of(f.examples, false, masks),
                      after = summary_of(f.examples, true, masks);
    if (report.evaluation.empty()) report.evaluation = {{"validation", "before", "after"}};
    const std::string of = fmt::format(" of the {} answered below", rows_text(after.answered));
    if (wanted("exact_match")) {
        report.evaluation.push_back(
            {"exact match" + of, fmt::format("{}", before.exact), fmt::format("{}", after.exact)});
    }
    if (masks) {
        report.evaluation.push_back({"mask F1" + of,
                                     fmt::format("{:.3f}", total(before.masks).f1()),
                                     fmt::format("{:.3f}", total(after.masks).f1())});
    }
    report.evaluation_note = fmt::format(
        "To answer and score every row, by kind of mask too: qshard eval {} adds a table here.",
        (fs::path(f.run->output) / "run.yaml").string());
}

}  // namespace

std::string report_html(const ReportFacts& f) {
    const fs::path output = f.run->output;
    Report report;
    report.title = output.filename().string();
    report.verdict = evaluated(f) ? fmt::format("{} steps; validation loss {:.4f} -> {:.4f}",
                                                f.steps, f.before.loss, f.after.loss)
                                  : fmt::format("{} steps; last loss {:.4f}", f.steps, f.loss);
    report.summary = {{"model", fs::path(f.run->model.base).filename().string()},
                      {"steps", grouped(f.steps)},
                      {"time", human_seconds(f.seconds)},
                      {"finished", utc_now()},
                      {"SHA-256 of the adapter", f.adapter_sha256.substr(0, 16)}};
    report.settings = {model_group(f), adapter_group(f), data_group(f), training_group(f),
                       run_group(f)};
    report.charts = charts_of_metrics(output / "metrics.jsonl");
    add_evaluation(report, f);
    report.examples.assign(f.examples.begin(), f.examples.end());
    for (const auto& [name, bytes] : f.trainer->memory_plan())
        report.memory.emplace_back(name, human_bytes(bytes));
    report.memory.emplace_back("total", human_bytes(f.trainer->planned_bytes()));
    if (f.trainer->host_bytes() > 0) {
        report.memory.emplace_back("beside it, the base on the host",
                                   human_bytes(f.trainer->host_bytes()));
    }
    report.how_to_use = fmt::format(
        "qshard eval {}\nqshard generate --model {} --adapter {} --prompt '...'",
        (output / "run.yaml").string(), f.run->model.base, (output / "adapter").string());
    report.run_yaml = f.run->to_yaml();
    return html_report(report);
}

}  // namespace qshard
