#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "comm/agree.h"
#include "io/checkpoint/result_file.h"
#include "main/commands.h"
#include "main/eval_pairs.h"
#include "main/eval_report.h"
#include "main/inference_session.h"
#include "main/progress.h"
#include "main/run_data.h"
#include "main/token_scores.h"

/// `qshard eval`: the base and adapters side by side on rows they were not trained on.
namespace qshard {
namespace {

constexpr std::int64_t kBatch = 16;  ///< rows answered at a time
constexpr std::size_t kMaxReportBytes = std::size_t{1} << 28;

struct Arguments {
    std::string run_file;
    std::optional<std::string> split;
    std::vector<std::string> overrides, adapters;
    std::optional<std::string> out;
    std::optional<std::int64_t> rows;
    bool json = false, overwrite = false;
    InferenceFlags flags;
};

/// What is evaluated, and on what: the same on every rank.
struct Work {
    RunFile run;
    std::string split;
    TextModel model;
    std::vector<AdapterFile> adapters;
    std::vector<EncodedRow> rows;
    std::vector<EvalExample> examples;
    std::vector<EncodedPair> pairs;  ///< instead of rows, of a file of preferences
    std::vector<PairExample> pair_examples;

    std::int64_t count() const { return std::ssize(rows) + std::ssize(pairs); }
};

/// A split. A file of its own is read without the training data.
Split read_split(const RunFile& run, const std::string& split, const TextModel& model) {
    const auto& file = split == "test" ? run.data.test : run.data.validation_file;
    if (!file && (split == "test" || !run.data.validation_fraction)) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("the run file has no data.{}; name a file there, or choose another --split",
                        split));
    }
    const ModelEncoder encoder(model, run.data);
    if (file) return load_split(*file, split, encoder.rows());
    return load_dataset(dataset_options(run), encoder.rows()).validation;
}

Work open_work(const Arguments& arguments) {
    Work work;
    if (arguments.out) check_result_file(*arguments.out, arguments.overwrite);
    work.run = load_run_file(arguments.run_file, arguments.overrides);
    work.split = arguments.split.value_or(work.run.eval.generate_split);
    work.model = open_text_model(work.run.model.base, work.run.model.tokenizer);
    std::vector<std::string> paths = arguments.adapters;
    if (paths.empty()) paths.push_back(work.run.output);
    for (const std::string& path : paths) work.adapters.push_back(read_adapter_file(path));
    // The date that the first adapter was trained with, where that is known.
    auto date = work.run.data.template_date;
    if (!date && work.adapters[0].run) date = work.adapters[0].run->data.template_date;
    if (date) fix_template_date(work.model, *date);
    Split split = read_split(work.run, work.split, work.model);
    work.rows = std::move(split.rows);
    work.pairs = std::move(split.pairs);
    const auto limit = static_cast<std::size_t>(arguments.rows.value_or(INT64_MAX));
    work.rows.resize(std::min(limit, work.rows.size()));
    work.pairs.resize(std::min(limit, work.pairs.size()));
    for (const EncodedPair& pair : work.pairs) {
        work.pair_examples.push_back({decode_text(work.model, pair.chosen.prompt(), true),
                                      decode_text(work.model, pair.chosen.completion(), false),
                                      decode_text(work.model, pair.rejected.completion(), false)});
    }
    for (const EncodedRow& row : work.rows) {
        work.examples.push_back({decode_text(work.model, row.prompt(), true),
                                 decode_text(work.model, row.completion(), false)});
    }
    return work;
}

EvalAnswer loss_of(Inference& inference, const EncodedRow& row) {
    EvalAnswer answer;
    const auto supervised = [&](std::int64_t i) {
        return row.labels[static_cast<std::size_t>(i)] != kIgnoreIndex;
    };
    const std::int64_t count = std::ssize(row.ids);
    std::int64_t first = 1;
    while (first < count && !supervised(first)) ++first;
    if (first >= count) return answer;
    const TokenScores scores = score_tokens(inference, row.ids, 0, first);
    for (std::int64_t i = first; i < count; ++i) {
        if (!supervised(i)) continue;
        answer.loss -= scores.logprobs[static_cast<std::size_t>(i - first)];
        ++answer.tokens;
    }
    return answer;
}

/// This rank's rows: their loss, then their answers where there is a prompt.
std::vector<EvalAnswer> answer_rows(const Work& work, SlotRange mine, Inference& inference,
                                    const std::function<void()>& on_done) {
    std::vector<EvalAnswer> answers;
    std::vector<std::vector<std::int32_t>> prompts;
    std::vector<std::size_t> asked;
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
        const EncodedRow& row = work.rows[static_cast<std::size_t>(i)];
        answers.push_back(loss_of(inference, row));
        on_done();
        prompts.push_back(row.prompt());
        asked.push_back(answers.size() - 1);
        if (prompts.back().empty()) {
            prompts.pop_back();
            asked.pop_back();
            on_done();
        }
    }
    SamplingOptions sampling;
    sampling.max_new_tokens = work.run.eval.generate_max_new_tokens;
    sampling.stop_ids = work.model.stop_ids;
    const auto texts = inference.generate(prompts, sampling, 0, [&](std::int64_t) { on_done(); });
    for (std::size_t i = 0; i < texts.size(); ++i)
        answers[asked[i]].text = decode_text(work.model, texts[i], false);
    return answers;
}

/// This rank's pairs.
std::vector<PairScore> score_pairs(const Work& work, SlotRange mine, Inference& inference,
                                   const std::function<void()>& on_done) {
    std::vector<PairScore> scores;
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
        const EncodedPair& pair = work.pairs[static_cast<std::size_t>(i)];
        const EvalAnswer chosen = loss_of(inference, pair.chosen);
        on_done();
        const EvalAnswer rejected = loss_of(inference, pair.rejected);
        on_done();
        scores.push_back({-chosen.loss, -rejected.loss, chosen.tokens, rejected.tokens});
    }
    return scores;
}

std::string to_lines(const std::vector<EvalAnswer>& answers) {
    std::string lines;
    for (const EvalAnswer& answer : answers) {
        boost::json::object line{{"loss", answer.loss}, {"tokens", answer.tokens}};
        if (answer.text) line["text"] = *answer.text;
        lines += boost::json::serialize(line) + "\n";
    }
    return lines;
}

std::vector<EvalAnswer> from_lines(const std::string& lines) {
    std::vector<EvalAnswer> answers;
    for (const boost::json::object& line : objects_of(lines)) {
        EvalAnswer answer{
            line.at("loss").to_number<double>(), line.at("tokens").to_number<std::int64_t>(), {}};
        if (const auto* text = line.if_contains("text"))
            answer.text = std::string(text->as_string());
        answers.push_back(std::move(answer));
    }
    return answers;
}

BackendChoice backend_choice(const BackendChoice& flags, const RunFile::Placement& run) {
    BackendChoice choice = flags;
    if (choice.backend == "auto") choice.backend = run.backend;
    if (choice.cpu_isa == "auto") choice.cpu_isa = run.cpu_isa;
    if (!choice.threads) choice.threads = run.threads;
    return choice;
}

std::int64_t longest_sequence(const Work& work) {
    std::int64_t longest = 1;
    for (const EncodedRow& row : work.rows) {
        const std::int64_t prompt = std::ssize(row.prompt());
        longest = std::max({longest, static_cast<std::int64_t>(row.ids.size()),
                            prompt + work.run.eval.generate_max_new_tokens});
    }
    for (const EncodedPair& pair : work.pairs)
        longest = std::max({longest, std::ssize(pair.chosen.ids), std::ssize(pair.rejected.ids)});
    return std::min(longest, context_limit(work.model.config()));
}

void print(const Arguments& arguments, const std::string& text) {
    std::FILE* stream = arguments.out ? summary_stream(*arguments.out) : stdout;
    std::fwrite(text.data(), 1, text.size(), stream);
    std::fflush(stream);
}

/// Whether the figures are those of the run itself: its adapter, under its own settings.
bool is_of_the_run(const Arguments& arguments) {
    return arguments.adapters.empty() && arguments.overrides.empty() &&
           !arguments.flags.quantization && !arguments.flags.compute_dtype;
}

/// Puts the figures into the run's report, too, if they are of the run and it has one.
void add_to_report(const Arguments& arguments, const Work& work,
                   std::vector<Report::Table> tables) {
    const std::filesystem::path file = std::filesystem::path(work.run.output) / "report.html";
    if (!is_of_the_run(arguments) || !std::filesystem::exists(file)) return;
    const bool all = !arguments.rows;
    const LaterEvaluation evaluation{
        all ? work.split : fmt::format("{} {}", work.split, work.count()),
        fmt::format("{}, {}{} {}; adapter {}, {}", work.split, all ? "" : "the first ",
                    work.count(), work.pairs.empty() ? "rows" : "pairs",
                    adapter_sha256(work.adapters.front().state).substr(0, 16), utc_now()),
        std::move(tables)};
    try {
        const std::vector<std::byte> bytes = read_file(file, kMaxReportBytes);
        const auto html = with_evaluation(
            {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, evaluation);
        if (!html) return;
        write_file_atomic(file, std::string_view(*html));
        std::fprintf(stderr, "%s has these figures, too\n", file.c_str());
    } catch (const Error& error) {  // the figures are told all the same
        std::fprintf(stderr, "note: the report is left as it was: %s\n", error.what());
    }
}

void tell(const Arguments& arguments, const Work& work, const std::vector<PairSubject>& subjects) {
    if (arguments.out) write_result(*arguments.out, pair_lines(work.pair_examples, subjects));
    print(arguments, arguments.json ? boost::json::serialize(pair_json(work.split, subjects)) + "\n"
                                    : pair_table(work.split, work.pair_examples, subjects));
    add_to_report(arguments, work, {pair_report_table(subjects)});
}

void tell(const Arguments& arguments, const Work& work, const std::vector<EvalSubject>& subjects) {
    const auto& metrics = work.run.eval.generate_metrics;
    const bool masks = std::find(metrics.begin(), metrics.end(), "masks") != metrics.end();
    if (arguments.out) write_result(*arguments.out, eval_lines(work.examples, subjects));
    print(arguments,
          arguments.json
              ? boost::json::serialize(eval_json(work.split, work.examples, subjects, masks)) + "\n"
              : eval_table(work.split, work.examples, subjects, masks));
    add_to_report(arguments, work, report_tables(work.examples, subjects, masks));
}

void evaluate(const Arguments& arguments, Communicator& group, int local_ranks) {
    Work work;
    agree(group, "opening the run", [&] { work = open_work(arguments); });
    print_notes(work.model.notes, group.rank() == 0);
    RunFile::Model settings = work.run.model;
    resolve_quantization(settings, *work.model.source.weights);
    if (arguments.flags.quantization) settings.quantization = *arguments.flags.quantization;
    if (arguments.flags.compute_dtype) settings.compute_dtype = *arguments.flags.compute_dtype;
    const auto backend = make_agreed_backend(
        backend_choice(arguments.flags.backend, work.run.placement), group, local_ranks);
    InferenceSession session(work.model.source, base_options(settings), *backend, group,
                             local_ranks);
    const SlotRange mine = slots_of(group.rank(), group.count(), work.count());
    const auto subject_count = static_cast<std::int64_t>(work.adapters.size()) + 1;
    ProgressBar bar("evaluating", 2 * subject_count * mine.count(),
                    TerminalStyle::of_stderr(work.run.log.color), group.rank() == 0);
    std::vector<EvalSubject> subjects;
    std::vector<PairSubject> pair_subjects;
    std::int64_t done = 0;
    for (std::int64_t s = 0; s < subject_count; ++s) {
        const AdapterFile* adapter =
            s == 0 ? nullptr : &work.adapters[static_cast<std::size_t>(s - 1)];
        const std::string name = adapter == nullptr ? "base" : adapter->path.string();
        Inference& inference = session.use(
            adapter, std::clamp<std::int64_t>(mine.count(), 1, kBatch), longest_sequence(work));
        const auto on_done = [&] { bar.update(++done, subject_key(static_cast<std::size_t>(s))); };
        if (work.pairs.empty()) {
            const std::string lines = to_lines(answer_rows(work, mine, inference, on_done));
            subjects.push_back({name, from_lines(gather_lines(group, lines))});
        } else {
            const std::string lines = lines_of(score_pairs(work, mine, inference, on_done));
            pair_subjects.push_back({name, pair_scores_of(gather_lines(group, lines))});
        }
    }
    bar.finish();
    agree(group, "writing the results", [&] {
        if (group.rank() != 0) return;
        if (work.pairs.empty()) {
            tell(arguments, work, subjects);
        } else {
            tell(arguments, work, pair_subjects);
        }
    });
}

}  // namespace

void add_eval_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    Command command =
        program.subcommand("eval", "Compare base and adapters on rows they have not seen");
    command.option("RUN.yaml", arguments->run_file, "the run file, or run.yaml of an output folder")
        .required();
    command.option(
        "--adapter", arguments->adapters,
        "PEFT folder, checkpoint or output folder (may repeat; default: the run's output)");
    command.option("--split", arguments->split, "validation | test (default: eval.generate.split)")
        .one_of({"validation", "test"});
    command.option("--rows", arguments->rows, "only the first rows of the split")
        .between(1, 1 << 30);
    command.option("--out", arguments->out,
                   "JSON lines: prompt, expected, base, tuned (pairs: prompt, chosen, "
                   "rejected, and log-probabilities)");
    command.flag("--overwrite", arguments->overwrite, kOverwriteHelp);
    command.option("--set", arguments->overrides,
                   "override a key of the run file: key.path=value (may repeat)");
    command.flag("--json", arguments->json, "print the results as one JSON object");
    arguments->flags.add_compute(command);
    command.action(on_ranks<Arguments>(arguments, evaluate));
}

}  // namespace qshard
