#include <algorithm>

#include "comm/agree.h"
#include "io/checkpoint/atomic_file.h"
#include "main/commands.h"
#include "main/eval_report.h"
#include "main/inference_session.h"
#include "main/progress.h"
#include "main/run_data.h"
#include "main/token_scores.h"

/// `qshard eval`: the base and adapters side by side on rows they were not trained on.
namespace qshard {
namespace {

constexpr std::int64_t kBatch = 16;  ///< rows answered at a time

struct Arguments {
    std::string run_file, split = "validation";
    std::vector<std::string> overrides, adapters;
    std::optional<std::string> out;
    std::optional<std::int64_t> rows;
    bool json = false;
    InferenceFlags flags;
};

/// What is evaluated, and on what: the same on every rank.
struct Work {
    RunFile run;
    TextModel model;
    std::vector<AdapterFile> adapters;
    std::vector<EncodedRow> rows;
    std::vector<EvalExample> examples;
};

/// Rows of a split. A file of its own is read without the training data.
std::vector<EncodedRow> split_rows(const RunFile& run, const std::string& split,
                                   const TextModel& model) {
    const auto& file = split == "test" ? run.data.test : run.data.validation_file;
    if (!file && (split == "test" || !run.data.validation_fraction)) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("the run file has no data.{}; name a file there, or choose another --split",
                        split));
    }
    const ModelEncoder encoder(model, run.data);
    DatasetOptions options = dataset_options(run);
    if (!file) return load_dataset(options, encoder.rows()).validation.rows;
    options.train = {{*file, 1.0}};
    options.validation_fraction = 0;
    options.validation_file = options.test_file = "";
    return load_dataset(options, encoder.rows()).train.rows;
}

Work open_work(const Arguments& arguments) {
    Work work;
    if (arguments.out) check_writable(*arguments.out);
    work.run = load_run_file(arguments.run_file, arguments.overrides);
    work.model = open_text_model(work.run.model.base, work.run.model.tokenizer);
    std::vector<std::string> paths = arguments.adapters;
    if (paths.empty()) paths.push_back(work.run.output);
    for (const std::string& path : paths) work.adapters.push_back(read_adapter_file(path));
    work.rows = split_rows(work.run, arguments.split, work.model);
    if (arguments.rows && *arguments.rows < std::ssize(work.rows))
        work.rows.resize(static_cast<std::size_t>(*arguments.rows));
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
    for (std::size_t begin = 0; begin < lines.size();) {
        const std::size_t end = lines.find('\n', begin);
        const boost::json::object line =
            boost::json::parse(lines.substr(begin, end - begin)).as_object();
        EvalAnswer answer{
            line.at("loss").to_number<double>(), line.at("tokens").to_number<std::int64_t>(), {}};
        if (const auto* text = line.if_contains("text"))
            answer.text = std::string(text->as_string());
        answers.push_back(std::move(answer));
        begin = end + 1;
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
    return std::min(longest, context_limit(work.model.config()));
}

void tell(const Arguments& arguments, const Work& work, const std::vector<EvalSubject>& subjects) {
    const auto& metrics = work.run.eval.generate_metrics;
    const bool masks = std::find(metrics.begin(), metrics.end(), "masks") != metrics.end();
    if (arguments.out) write_file_atomic(*arguments.out, eval_lines(work.examples, subjects));
    const std::string text =
        arguments.json
            ? boost::json::serialize(eval_json(arguments.split, work.examples, subjects, masks)) +
                  "\n"
            : eval_table(arguments.split, work.examples, subjects, masks);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

void evaluate(const Arguments& arguments, Communicator& group, int local_ranks) {
    Work work;
    agree(group, "opening the run", [&] { work = open_work(arguments); });
    RunFile::Model settings = work.run.model;
    if (arguments.flags.quantization) settings.quantization = *arguments.flags.quantization;
    if (arguments.flags.compute_dtype) settings.compute_dtype = *arguments.flags.compute_dtype;
    const auto backend = make_agreed_backend(
        backend_choice(arguments.flags.backend, work.run.placement), group, local_ranks);
    InferenceSession session(work.model.source, base_options(settings), *backend, group,
                             local_ranks);
    const SlotRange mine = slots_of(group.rank(), group.count(), std::ssize(work.rows));
    const auto subject_count = static_cast<std::int64_t>(work.adapters.size()) + 1;
    ProgressBar bar("evaluating", 2 * subject_count * mine.count(),
                    TerminalStyle::of_stderr(work.run.log.color), group.rank() == 0);
    std::vector<EvalSubject> subjects;
    std::int64_t done = 0;
    for (std::int64_t s = 0; s < subject_count; ++s) {
        const AdapterFile* adapter =
            s == 0 ? nullptr : &work.adapters[static_cast<std::size_t>(s - 1)];
        EvalSubject subject{adapter == nullptr ? "base" : adapter->path.string(), {}};
        Inference& inference = session.use(
            adapter, std::clamp<std::int64_t>(mine.count(), 1, kBatch), longest_sequence(work));
        const std::string lines = to_lines(answer_rows(work, mine, inference, [&] {
            bar.update(++done, subject_key(static_cast<std::size_t>(s)));
        }));
        subject.answers = from_lines(gather_lines(group, lines));
        subjects.push_back(std::move(subject));
    }
    bar.finish();
    agree(group, "writing the results", [&] {
        if (group.rank() == 0) tell(arguments, work, subjects);
    });
}

}  // namespace

void add_eval_command(CLI::App& app, Run& run) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command =
        app.add_subcommand("eval", "Compare base and adapters on rows they have not seen");
    command
        ->add_option("RUN.yaml", arguments->run_file,
                     "the run file, or run.yaml of an output folder")
        ->required();
    command
        ->add_option(
            "--adapter", arguments->adapters,
            "PEFT folder, checkpoint or output folder (may repeat; default: the run's output)")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command->add_option("--split", arguments->split, "validation (default) | test")
        ->check(CLI::IsMember({"validation", "test"}));
    command->add_option("--rows", arguments->rows, "only the first rows of the split")
        ->check(CLI::Range(1, 1 << 30));
    command->add_option("--out", arguments->out, "JSON lines: prompt, expected, base, tuned");
    command
        ->add_option("--set", arguments->overrides,
                     "override a key of the run file: key.path=value (may repeat)")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command->add_flag("--json", arguments->json, "print the results as one JSON object");
    arguments->flags.add_compute(*command);
    command->callback([arguments, &run] {
        run = [arguments] {
            return run_ranks("auto", 1, false,
                             [&](Communicator& group, int local_ranks, const Launch*) {
                                 evaluate(*arguments, group, local_ranks);
                             });
        };
    });
}

}  // namespace qshard
