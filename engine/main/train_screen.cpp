#include "main/train_screen.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "main/eval_report.h"
#include "main/progress.h"
#include "main/run_data.h"

namespace qshard {
namespace {

constexpr int kLabelColumns = 12;    ///< of the screens' names
constexpr int kExampleColumns = 14;  ///< of labelled_text()

std::string row(const std::string& name, const std::string& value) {
    return fmt::format("{:<{}} {}\n", name, kLabelColumns - 1, value);
}

}  // namespace

std::string grouped(std::int64_t value) {
    std::string digits = fmt::format("{}", value), out;
    for (std::size_t i = 0; i < digits.size(); ++i) {
        if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
        out += digits[i];
    }
    return out;
}

std::string json_number(double value) {
    return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

std::int64_t parameter_count(const ModelConfig& config) {
    std::int64_t count = 0;
    auto add = [&](const std::vector<WeightSpec>& weights) {
        for (const WeightSpec& weight : weights) count += weight.count();
    };
    add(embedding_weights(config));
    for (std::int64_t l = 0; l < config.layers; ++l) add(layer_weights(config, l));
    if (!config.tied_head) add(head_weights(config));
    return count;
}

std::vector<std::string> target_names(const AdapterLayout& layout) {
    std::vector<std::string> names;
    for (const AdapterTarget& target : layout.targets) {
        if (target.is_parameter()) continue;
        const std::string name = target.module.substr(target.module.rfind('.') + 1);
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    return names;
}

namespace {

std::string base_text(const StartScreen& s) {
    return fmt::format("{}, {} in all, {} on each of {} rank{}", describe(base_form(s.run->model)),
                       human_bytes(s.trainer->layout().bytes()),
                       human_bytes(s.trainer->resident_base_bytes()), s.group->count(),
                       s.group->count() == 1 ? "" : "s");
}

/// PEFT's line.
std::string adapter_text(const StartScreen& s) {
    const AdapterLayout& adapter = s.trainer->adapter_layout();
    const std::int64_t trainable = adapter.count, all = parameter_count(s.inputs->model.config()) +
                                                        trainable - adapter.bias_count();
    return fmt::format("trainable params: {} || all params: {} || trainable%: {:.4f}",
                       grouped(trainable), grouped(all),
                       100.0 * static_cast<double>(trainable) / static_cast<double>(all));
}

std::string data_text(const StartScreen& s) {
    const SplitStats& stats = s.inputs->data->stats();
    const auto share = 100.0 * static_cast<double>(stats.supervised) /
                       static_cast<double>(std::max<std::int64_t>(1, stats.tokens));
    std::string text = fmt::format(
        "{} rows, {} tokens ({:.0f} % supervised), longest {}, truncated {}, skipped {}, without "
        "loss {}; {} for validation",
        grouped(stats.rows), grouped(stats.tokens), share, stats.longest, stats.truncated.count,
        stats.skipped.count, stats.answer_cut.count + stats.without_loss.count,
        grouped(s.inputs->validation_rows));
    const SplitStats& validation = s.inputs->validation_stats;
    if (validation.rows_read() == s.inputs->validation_rows) return text;
    return text + fmt::format(" (of {} read, {} fit for it)", grouped(validation.rows_read()),
                              grouped(validation.rows));
}

std::string placement_text(const StartScreen& s) {
    const std::int64_t group_slots = s.trainer->group_slots(),
                       batch_slots = s.trainer->batch_slots();
    return fmt::format(
        "{} (transport {}); {} {} kernels, {} thread{} a rank, {}; {} slot{} at a time{}, {} of {} "
        "layers computed again for the backward",
        s.why_placement, s.group->transport(), s.backend->name(), s.backend->isa(),
        s.backend->threads(), s.backend->threads() == 1 ? "" : "s", s.run->model.compute_dtype,
        group_slots, group_slots == 1 ? "" : "s",
        batch_slots == 1 || batch_slots == group_slots ? ""
                                                       : fmt::format(" ({} a call)", batch_slots),
        s.trainer->recomputed_layers(), s.inputs->model.config().layers);
}

}  // namespace

std::string start_screen(const StartScreen& s) {
    const ModelConfig& config = s.inputs->model.config();
    const RunFile& run = *s.run;
    std::string text =
        row("model", fmt::format("{} ({}, {} layers, width {}, vocabulary {})", run.model.base,
                                 config.family, config.layers, config.width, config.vocabulary));
    text += row("base", base_text(s));
    text += row("adapter", adapter_text(s));
    text += row("data", data_text(s));
    for (const std::string& line : s.inputs->model.notes) text += row("note:", line);
    for (const std::string& line : s.inputs->data->stats().notes.lines())
        text += row("note:", line);
    for (const std::string& line : s.inputs->warnings) text += row("warning:", line);
    text += row(
        "batches",
        fmt::format("{} steps of {} rows in slots of {}; packing fills {:.0f} %; {} step{} an "
                    "epoch",
                    s.inputs->total_steps, run.train.global_batch_size, run.train.micro_batch_size,
                    100 * s.inputs->data->packing_efficiency(), s.inputs->data->steps_per_epoch(),
                    s.inputs->data->steps_per_epoch() == 1 ? "" : "s"));
    text += row("placement", placement_text(s));
    if (s.inputs->model.chat && s.inputs->model.chat->uses_clock()) {
        text += row("date", fmt::format("the chat template asks for it: fixed at {}",
                                        run.data.template_date.value_or("")));
    }
    text += "memory of a rank, planned:\n";
    text += memory_table(*s.trainer, s.memory_limit);
    return wrapped(text, s.width, kLabelColumns);
}

std::string metrics_line(const StepResult& r, std::int64_t step) {
    const StepSeconds& s = r.seconds;
    const double total = std::max(1e-9, s.total);
    std::string line = fmt::format(
        R"({{"step":{},"epoch":{},"loss":{},"grad_norm":{},"learning_rate":{},"supervised_tokens":{},"tokens":{},)"
        R"("tokens_per_second":{:.1f},)",
        step, json_number(r.info.epoch), json_number(r.loss), json_number(r.grad_norm),
        json_number(r.learning_rate), r.info.supervised_tokens, r.info.tokens,
        static_cast<double>(r.info.tokens) / total);
    line += fmt::format(
        R"("seconds":{{"data":{:.4f},"gather":{:.4f},"expand":{:.4f},"forward":{:.4f},"head":{:.4f},"backward":{:.4f},)"
        R"("reduce":{:.4f},"optimizer":{:.4f},"other":{:.4f}}},"bytes":{{"gather":{},"reduce":{}}},"useful_flops":{:.6g}}})",
        s.data, s.gather, s.expand, s.forward, s.head, s.backward, s.reduce, s.optimizer, s.other,
        r.received.gather, r.received.reduce, r.useful_flops);
    return line;
}

std::string adapter_row(const std::string& output, const std::string& adapter_sha256) {
    return row("adapter", fmt::format("{}  (SHA-256 of its values {})",
                                      (std::filesystem::path(output) / "adapter").string(),
                                      adapter_sha256.substr(0, 16)));
}

std::string end_screen(const EndScreen& s) {
    const std::string adapter = (std::filesystem::path(s.run->output) / "adapter").string();
    std::string text =
        fmt::format("\nfinished: {} steps in {}\n", s.steps, human_seconds(s.seconds));
    if (s.after.supervised_tokens > 0) {
        text += fmt::format(
            "\n  {:<26} {:>10} {:>10}\n  {:<26} {:>10.4f} {:>10.4f}\n  {:<26} {:>10.2f} "
            "{:>10.2f}\n\n",
            fmt::format("validation ({} rows)", s.validation_rows), "before", "after", "loss",
            s.before.loss, s.after.loss, "perplexity", std::exp(s.before.loss),
            std::exp(s.after.loss));
    }
    std::string examples;
    for (const Report::Example& example : s.examples) {
        examples +=
            labelled_text("prompt", example.prompt) + labelled_text("expected", example.expected) +
            labelled_text("before", example.before) + labelled_text("after", example.after) + "\n";
    }
    text += wrapped(examples, s.width, kExampleColumns);
    std::string files = adapter_row(s.run->output, s.adapter_sha256);
    if (!s.which_adapter.empty()) files += row("", s.which_adapter);
    files += row("report", (std::filesystem::path(s.run->output) / "report.html").string());
    text += wrapped(files, s.width, kLabelColumns);
    text += fmt::format(
        "next:\n  qshard eval {}\n  qshard generate --model {} --adapter {} --prompt '...'\n",
        (std::filesystem::path(s.run->output) / "run.yaml").string(), s.run->model.base, adapter);
    return text;
}

}  // namespace qshard
