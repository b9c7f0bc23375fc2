#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/agree.h"
#include "io/checkpoint/result_file.h"
#include "io/data/rows.h"
#include "main/commands.h"
#include "main/inference_session.h"
#include "main/progress.h"
#include "main/token_scores.h"

/// `qshard score`: the log-probability of every token of given texts.
namespace qshard {
namespace {

struct Arguments {
    InferenceFlags flags;
    std::string input, out;
    std::int64_t top = 0;
    bool overwrite = false;
};

std::vector<std::int32_t> read_ids(const DataRow& row, std::int64_t vocabulary) {
    std::vector<std::int32_t> ids;
    const boost::json::value& list = row.columns.at("input_ids");
    if (!list.is_array()) throw UserError(row.place + ": \"input_ids\" is no list of token ids");
    for (const boost::json::value& value : list.get_array()) {
        const std::int64_t* id = value.if_int64();
        if (id == nullptr || *id < 0 || *id >= vocabulary) {
            throw UserError(fmt::format("{}: \"input_ids\" has {}; expected token ids from 0 to {}",
                                        row.place, boost::json::serialize(value), vocabulary - 1));
        }
        ids.push_back(static_cast<std::int32_t>(*id));
    }
    return ids;
}

/// A row as training sees it; a text alone as it is, without an end.
std::vector<std::int32_t> read_text(const DataRow& row, const TextModel& model) {
    if (row.columns.contains("input_ids")) return read_ids(row, model.config().vocabulary);
    const Example example = interpret_row(row, {});
    if (const auto* text = std::get_if<TextExample>(&example))
        return encode_prompt(model, text->text);
    if (const auto* chat = std::get_if<ChatExample>(&example))
        return encode_chat(model, *chat, false);
    if (const auto* prompt = std::get_if<PromptExample>(&example)) {
        std::vector<std::int32_t> ids = encode_prompt(model, prompt->prompt);
        const auto answer = model.text().encode(prompt->completion, false);
        ids.insert(ids.end(), answer.begin(), answer.end());
        if (model.eos && (answer.empty() || answer.back() != *model.eos)) ids.push_back(*model.eos);
        return ids;
    }
    throw UserError("the row is a preference pair; give each answer a row of its own");
}

std::vector<std::vector<std::int32_t>> read_texts(const Arguments& arguments,
                                                  const TextModel& model) {
    std::vector<std::vector<std::int32_t>> texts;
    for (const DataRow& row : read_rows(arguments.input)) {
        try {
            texts.push_back(read_text(row, model));
        } catch (const UserError& error) {
            const std::string what = error.what();
            throw UserError(error.code(),
                            what.starts_with(row.place) ? what : row.place + ": " + what);
        }
        model.check_ids(texts.back(), row.place);
        const auto count = static_cast<std::int64_t>(texts.back().size());
        if (count < 1 || count > context_limit(model.config())) {
            throw UserError(fmt::format("{}: the text has {} tokens; this model takes 1 to {}",
                                        row.place, count, context_limit(model.config())));
        }
    }
    return texts;
}

void score(const Arguments& arguments, Communicator& group, int local_ranks) {
    TextModel model;
    std::optional<AdapterFile> adapter;
    std::vector<std::vector<std::int32_t>> texts;
    agree(group, "opening the model", [&] {
        check_result_file(arguments.out, arguments.overwrite);
        model = open_text_model(arguments.flags.model, arguments.flags.tokenizer);
        if (arguments.flags.adapter) adapter = read_adapter_file(*arguments.flags.adapter);
        texts = read_texts(arguments, model);
    });
    print_notes(model.notes, group.rank() == 0);
    std::int64_t longest = 1;
    for (const auto& ids : texts)
        longest = std::max(longest, static_cast<std::int64_t>(ids.size()));
    const AdapterFile* trained = adapter ? &*adapter : nullptr;
    const auto backend = make_agreed_backend(arguments.flags.backend, group, local_ranks);
    InferenceSession session(model.source, arguments.flags.base(trained), *backend, group,
                             local_ranks);
    Inference& inference = session.use(trained, 1, longest);
    session.release_base();

    const SlotRange mine =
        slots_of(group.rank(), group.count(), static_cast<std::int64_t>(texts.size()));
    ProgressBar bar("scoring", mine.count(), TerminalStyle::of_stderr("auto"), group.rank() == 0);
    std::string lines;
    double sum = 0;
    std::int64_t count = 0;
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
        const auto& ids = texts[static_cast<std::size_t>(i)];
        const TokenScores scores = score_tokens(inference, ids, arguments.top);
        lines += score_line(ids, scores, arguments.top) + "\n";
        for (double value : scores.logprobs) sum += value;
        count += static_cast<std::int64_t>(scores.logprobs.size());
        bar.update(i + 1 - mine.begin, "");
    }
    bar.finish();
    const std::string all = gather_lines(group, lines);
    const auto sums = group.all_gather_value(sum);
    const auto counts = group.all_gather_value(count);
    agree(group, "writing the scores", [&] {
        if (group.rank() != 0) return;
        write_result(arguments.out, all);
        const double total = std::accumulate(sums.begin(), sums.end(), 0.0);
        const auto tokens = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
        const double loss = tokens > 0 ? -total / static_cast<double>(tokens) : 0.0;
        const std::string summary =
            fmt::format("{} rows, {} predicted tokens, loss {:.4f}, perplexity {:.4f}\n",
                        texts.size(), tokens, loss, std::exp(loss));
        std::fputs(summary.c_str(), stderr);
    });
}

}  // namespace

void add_score_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    Command command = program.subcommand("score", "Log-probability of every token of given texts");
    arguments->flags.add_model(command);
    command
        .option("--input", arguments->input,
                "file of rows: text, token ids, conversations... (.jsonl)")
        .required();
    command
        .option("--out", arguments->out,
                "JSON lines: input_ids, logprobs, top (- for stdout; /dev/null for the perplexity "
                "alone)")
        .required();
    command.flag("--overwrite", arguments->overwrite, kOverwriteHelp);
    command.option("--top", arguments->top, "also the K likeliest tokens of every position")
        .between(0, 1 << 20);
    arguments->flags.add_compute(command);
    command.action(on_ranks<Arguments>(arguments, score));
}

}  // namespace qshard
