#include "main/train_report.h"

#include <cmath>
#include <filesystem>

#include "main/progress.h"
#include "main/run_data.h"
#include "main/train_screen.h"

namespace qshard {
namespace {

/// What is trained beside LoRA.
std::string whole_text(const RunFile::Adapter& adapter) {
    std::string text;
    for (const std::string& name : adapter.modules_to_save) text += ", all of " + name;
    if (adapter.bias != "none") text += ", biases (" + adapter.bias + ")";
    return text;
}

std::string loss_change(const EvalResult& before, const EvalResult& after) {
    return fmt::format("validation loss {:.4f} -> {:.4f}", before.loss, after.loss);
}

}  // namespace

std::string report_html(const ReportFacts& f) {
    const std::filesystem::path output = f.run->output;
    Report report;
    report.title = output.filename().string();
    const bool evaluated = f.after.supervised_tokens > 0;
    report.verdict = evaluated
                         ? fmt::format("{} steps; {}", f.steps, loss_change(f.before, f.after))
                         : fmt::format("{} steps; last loss {:.4f}", f.steps, f.loss);
    report.summary = {
        {"model", f.run->model.base},
        {"base", fmt::format("{}, {} a rank", describe(base_form(f.run->model)),
                             human_bytes(f.trainer->resident_base_bytes()))},
        {"adapter", fmt::format("{}, r {}, alpha {}{}, {} trainable values",
                                f.run->adapter.use_dora ? "DoRA" : "LoRA", f.run->adapter.r,
                                f.run->adapter.alpha, whole_text(f.run->adapter),
                                grouped(f.trainer->adapter_layout().count))},
        {"ranks", fmt::format("{} with {} threads, kernels {}", f.ranks, f.backend->threads(),
                              f.backend->isa())},
        {"time", human_seconds(f.seconds)},
        {"last loss", fmt::format("{:.4f}", f.loss)}};
    report.charts = charts_of_metrics(output / "metrics.jsonl");
    if (evaluated) {
        report.evaluation = {
            {"validation", "before", "after"},
            {"loss", fmt::format("{:.4f}", f.before.loss), fmt::format("{:.4f}", f.after.loss)},
            {"perplexity", fmt::format("{:.2f}", std::exp(f.before.loss)),
             fmt::format("{:.2f}", std::exp(f.after.loss))}};
    }
    report.examples.assign(f.examples.begin(), f.examples.end());
    for (const auto& [name, bytes] : f.trainer->memory_plan())
        report.memory.emplace_back(name, human_bytes(bytes));
    report.memory.emplace_back("total", human_bytes(f.trainer->planned_bytes()));
    if (f.trainer->host_bytes() > 0) {
        report.memory.emplace_back("beside it, the base on the host",
                                   human_bytes(f.trainer->host_bytes()));
    }
    report.how_to_use = fmt::format("qshard generate --model {} --adapter {} --prompt '...'",
                                    f.run->model.base, (output / "adapter").string());
    report.run_yaml = f.run->to_yaml();
    return html_report(report);
}

}  // namespace qshard
