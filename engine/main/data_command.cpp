#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "io/checkpoint/result_file.h"
#include "main/commands.h"
#include "main/inference_session.h"
#include "main/progress.h"
#include "main/row_view.h"
#include "main/run_data.h"

/// `qshard data`: the rows of a run as the model will see them, and what became of the others.
namespace qshard {
namespace {

constexpr std::int64_t kRows = 5;  ///< shown if nothing else is said
constexpr int kIndent = 4;         ///< of lines that go on

struct Arguments {
    std::string run_file, split = "train";
    std::vector<std::string> overrides;
    std::optional<std::string> out;
    std::optional<std::int64_t> rows;
    bool ids = false, overwrite = false;
};

/// The split that was asked for. Rows that would be refused for a run are shown all the same.
Split read_split(const Arguments& arguments, const RunFile& run, const TextModel& model) {
    const ModelEncoder encoder(model, run.data);
    DatasetOptions options = dataset_options(run);
    options.may_be_empty = true;
    if (arguments.split != "test") options.test_file.clear();
    if (arguments.split == "train") {
        options.validation_file.clear();
        return std::move(load_dataset(options, encoder.rows()).train);
    }
    const bool test = arguments.split == "test";
    const std::string& file = test ? options.test_file : options.validation_file;
    if (file.empty() && (test || options.validation_fraction == 0)) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("the run file has no data.{}; name a file there, or choose "
                                    "another --split",
                                    arguments.split));
    }
    if (file.empty()) return std::move(load_dataset(options, encoder.rows()).validation);
    return load_split(file, arguments.split, encoder.rows(), options.may_be_empty);
}

std::string heading(const EncodedRow& row, const char* what) {
    std::string text = fmt::format("{}{}  {} tokens, {} learnt", row.place, what,
                                   std::ssize(row.ids), row.supervised());
    if (row.given_tokens > std::ssize(row.ids))
        text += fmt::format(", cut from {}", row.given_tokens);
    if (!row.chat_template.empty()) text += fmt::format(", chat template {}", row.chat_template);
    return text + "\n";
}

std::string rows_text(const Split& split, std::int64_t count, const TextModel& model,
                      const RowViewStyle& style) {
    const DecodeTokens decode = [&](std::span<const std::int32_t> ids) {
        return decode_text(model, {ids.begin(), ids.end()}, true);
    };
    std::string text;
    const auto add = [&](const EncodedRow& row, const char* what) {
        text += heading(row, what) + row_view(row, decode, style) + "\n";
    };
    for (std::int64_t i = 0; i < std::min(count, std::ssize(split.rows)); ++i)
        add(split.rows[static_cast<std::size_t>(i)], "");
    for (std::int64_t i = 0; i < std::min(count, std::ssize(split.pairs)); ++i) {
        add(split.pairs[static_cast<std::size_t>(i)].chosen, " (chosen)");
        add(split.pairs[static_cast<std::size_t>(i)].rejected, " (rejected)");
    }
    return text;
}

std::string stats_text(const Arguments& arguments, const RunFile& run, const TextModel& model,
                       const SplitStats& stats) {
    std::string text = fmt::format("{}: {} tokens, {} learnt; longest row {} tokens\n",
                                   arguments.split, stats.tokens, stats.supervised, stats.longest) +
                       fate_table(stats);
    for (const std::string& line : stats.notes.lines()) text += "note: " + line + "\n";
    for (const std::string& line : data_warnings(
             stats, "data." + arguments.split, run.data.max_length, context_limit(model.config())))
        text += "warning: " + line + "\n";
    return text;
}

/// Rows that data.format tokenized reads back as the same documents.
std::string tokenized_lines(const Split& split, std::int64_t count) {
    if (!split.pairs.empty()) {
        throw UserError(fmt::format(
            "{}: --out writes documents, and these rows are preference pairs. Leave it out to look "
            "at them.",
            split.pairs.front().chosen.place));
    }
    std::string lines;
    for (std::int64_t i = 0; i < std::min(count, std::ssize(split.rows)); ++i) {
        const auto index = static_cast<std::size_t>(i);
        const EncodedRow& row = split.rows[index];
        lines += fmt::format("{{\"input_ids\":[{}],\"labels\":[{}]", fmt::join(row.ids, ","),
                             fmt::join(row.labels, ","));
        if (split.weights[index] != 1) lines += fmt::format(",\"weight\":{}", split.weights[index]);
        lines += "}\n";
    }
    return lines;
}

/// Whether rows of two files that have one fractional weight, with others between them, are drawn
/// file by file: among rows with weights of their own they are drawn together.
bool draws_differ(const Split& split) {
    std::vector<double> before;
    for (std::size_t i = 0; !split.own_weights && i < split.weights.size(); ++i) {
        const double weight = split.weights[i];
        if (i > 0 && split.weights[i - 1] == weight) continue;
        if (weight != std::floor(weight) && std::ranges::find(before, weight) != before.end())
            return true;
        before.push_back(weight);
    }
    return false;
}

/// Refuses a place for the rows that could not be written, or is one of the files they come from.
void check_out(const Arguments& arguments, const RunFile& run) {
    if (!arguments.out) return;
    check_result_file(*arguments.out, arguments.overwrite);
    for (const DataFile& file : run.data.train) refuse_to_replace(file.path, *arguments.out);
    for (const auto& file : {run.data.validation_file, run.data.test})
        if (file) refuse_to_replace(*file, *arguments.out);
}

int show(const Arguments& arguments) {
    const RunFile run = load_run_file(arguments.run_file, arguments.overrides);
    check_out(arguments, run);
    TextModel model = open_text_model(run.model.base, run.model.tokenizer);
    fix_template_date(model, run.data.template_date.value_or(local_date()));
    print_notes(model.notes, true);
    const Split split = read_split(arguments, run, model);
    if (arguments.out) {
        write_result(*arguments.out, tokenized_lines(split, arguments.rows.value_or(INT64_MAX)));
    }
    RowViewStyle style;
    style.color = TerminalStyle::of_stdout(run.log.color).color;
    style.ids = arguments.ids;
    style.width = terminal_width(STDOUT_FILENO);
    std::string text, facts;
    if (!arguments.out || arguments.rows)
        text += rows_text(split, arguments.rows.value_or(kRows), model, style);
    if (model.chat) facts += fmt::format("chat template of {}\n", model.chat->origin());
    facts += stats_text(arguments, run, model, split.stats);
    if (arguments.out) {
        facts +=
            fmt::format("written to {}: read it with data.format tokenized{}\n", *arguments.out,
                        arguments.split == "train" && run.data.validation_fraction
                            ? ", and no fraction in data.validation: the rows that it holds "
                              "back are not in the file (--split validation writes them)"
                            : "");
    }
    if (arguments.out && draws_differ(split)) {
        facts +=
            "warning: files of one fractional weight stand apart in data.train: the rows written "
            "are as often in an epoch, but other ones are drawn. Put these files side by side.\n";
    }
    text += wrapped(facts, style.width, kIndent);
    std::FILE* stream = arguments.out ? summary_stream(*arguments.out) : stdout;
    std::fwrite(text.data(), 1, text.size(), stream);
    std::fflush(stream);
    return 0;
}

}  // namespace

void add_data_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    Command command = program.subcommand(
        "data", "Show the rows of a run as the model will see them, and what is learnt of them");
    command.option("RUN.yaml", arguments->run_file, "the run file").required();
    command.option("--split", arguments->split, "train (default) | validation | test")
        .one_of({"train", "validation", "test"});
    command
        .option("--rows", arguments->rows,
                "how many, the first ones (default 5; with --out all are written)")
        .between(0, 1 << 30);
    command.flag("--ids", arguments->ids, "token ids instead of text");
    command.option(
        "--out", arguments->out,
        "write them as JSON lines {input_ids, labels}, which data.format tokenized reads");
    command.flag("--overwrite", arguments->overwrite, kOverwriteHelp);
    command.option("--set", arguments->overrides,
                   "override a key of the run file: key.path=value (may repeat)");
    command.footer(
        "What is learnt is green, or in brackets [ ] where there is no colour. Needs no weights "
        "and no ranks: it runs on a login node.");
    command.action([arguments] { return show(*arguments); });
}

}  // namespace qshard
