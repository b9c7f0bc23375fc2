#include <chrono>

#include "comm/agree.h"
#include "io/checkpoint/result_file.h"
#include "io/data/rows.h"
#include "main/commands.h"
#include "main/inference_session.h"

/// `qshard generate`: answers for one prompt, or for the rows of a file.
namespace qshard {
namespace {

struct Arguments {
    InferenceFlags flags;
    std::optional<std::string> prompt, chat, input, out;
    SamplingOptions sampling;
    std::int64_t batch = 16;
    bool json = false, overwrite = false;
};

/// One prompt: what it was asked with (copied into the answer's line), and its tokens.
struct Question {
    boost::json::object asked;
    std::vector<std::int32_t> ids;
};

Question read_question(const TextModel& model, const DataRow& row, std::int64_t& had_answer) {
    const QuestionExample example = interpret_question(row);
    had_answer += example.had_answer ? 1 : 0;
    Question question{{{example.column, row.columns.at(example.column)}}, {}};
    try {
        if (const auto* text = std::get_if<std::string>(&example.asked)) {
            question.ids = encode_prompt(model, *text);
        } else {
            question.ids = encode_chat(model, std::get<ChatExample>(example.asked), true);
        }
    } catch (const UserError& error) {
        throw UserError(error.code(), fmt::format("{}: {}", row.place, error.what()));
    }
    return question;
}

std::vector<Question> read_questions(const Arguments& arguments, const TextModel& model, int rank) {
    std::vector<Question> questions;
    if (arguments.prompt) {
        questions.push_back(
            {{{"prompt", *arguments.prompt}}, encode_prompt(model, *arguments.prompt)});
    } else if (arguments.chat) {
        ChatExample chat;
        chat.messages = {{{"role", "user"}, {"content", *arguments.chat}}};
        questions.push_back({{{"messages", chat.messages}}, encode_chat(model, chat, true)});
    } else {
        std::int64_t had_answer = 0;
        for (const DataRow& row : read_rows(*arguments.input)) {
            questions.push_back(read_question(model, row, had_answer));
            model.check_ids(questions.back().ids, row.place);
        }
        if (had_answer > 0 && rank == 0) {
            fmt::print(stderr,
                       "note: {} of {} rows end with the assistant's turn, which is left out and "
                       "answered anew\n",
                       had_answer, questions.size());
        }
    }
    if (!arguments.input) model.check_ids(questions.back().ids, "the prompt");
    const std::int64_t limit = context_limit(model.config());
    for (std::size_t i = 0; i < questions.size(); ++i) {
        const auto count = static_cast<std::int64_t>(questions[i].ids.size());
        if (count < 1 || count >= limit) {
            throw UserError(
                fmt::format("prompt {} has {} tokens; this model takes 1 to {}, room for an "
                            "answer included",
                            i + 1, count, limit - 1));
        }
    }
    return questions;
}

/// This rank's rows of the answers, each a JSON line or, for one prompt, plain text.
std::string answer(const Arguments& arguments, const TextModel& model, Inference& inference,
                   std::span<const Question> questions, std::int64_t first, std::int64_t& tokens) {
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Question& question : questions) prompts.push_back(question.ids);
    SamplingOptions sampling = arguments.sampling;
    sampling.stop_ids = model.stop_ids;
    const auto answers = inference.generate(prompts, sampling, first);
    std::string lines;
    for (std::size_t i = 0; i < answers.size(); ++i) {
        tokens += static_cast<std::int64_t>(answers[i].size());
        const std::string text = model.text().decode(answers[i], true);
        if (!arguments.json && !arguments.input && !arguments.out) return text + "\n";
        boost::json::object line = questions[i].asked;
        line["completion"] = text;
        lines += boost::json::serialize(line) + "\n";
    }
    return lines;
}

void generate(const Arguments& arguments, Communicator& group, int local_ranks) {
    TextModel model;
    std::optional<AdapterFile> adapter;
    std::vector<Question> questions;
    agree(group, "opening the model", [&] {
        if (arguments.out) check_result_file(*arguments.out, arguments.overwrite);
        model = open_text_model(arguments.flags.model, arguments.flags.tokenizer);
        if (arguments.flags.adapter) adapter = read_adapter_file(*arguments.flags.adapter);
        questions = read_questions(arguments, model, group.rank());
    });
    print_notes(model.notes, group.rank() == 0);
    const AdapterFile* trained = adapter ? &*adapter : nullptr;
    const auto backend = make_agreed_backend(arguments.flags.backend, group, local_ranks);
    const BaseOptions base = arguments.flags.base(trained);
    InferenceSession session(model.source, base, *backend, group, local_ranks);
    std::int64_t longest = 0;
    for (const Question& question : questions)
        longest = std::max(longest, static_cast<std::int64_t>(question.ids.size()));
    const SlotRange mine =
        slots_of(group.rank(), group.count(), static_cast<std::int64_t>(questions.size()));
    Inference& inference = session.use(
        trained, std::clamp<std::int64_t>(mine.count(), 1, arguments.batch),
        std::min(longest + arguments.sampling.max_new_tokens, context_limit(model.config())));
    session.release_base();
    const auto begin = std::chrono::steady_clock::now();
    std::int64_t tokens = 0;
    const std::string lines = gather_lines(
        group, answer(arguments, model, inference,
                      std::span(questions).subspan(static_cast<std::size_t>(mine.begin),
                                                   static_cast<std::size_t>(mine.count())),
                      mine.begin, tokens));
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::int64_t all_tokens = 0;
    for (std::int64_t count : group.all_gather_value(tokens)) all_tokens += count;
    agree(group, "writing the answers", [&] {
        if (group.rank() != 0) return;
        if (arguments.out) {
            write_result(*arguments.out, lines);
        } else {
            std::fwrite(lines.data(), 1, lines.size(), stdout);
            std::fflush(stdout);
        }
        const std::string summary = fmt::format(
            "{} {} in {:.1f} s ({:.1f} tokens/s), {} {}, {} threads\n", all_tokens,
            all_tokens == 1 ? "token" : "tokens", seconds,
            static_cast<double>(all_tokens) / seconds,
            session.quantization() == Quantization::kNone ? "unquantized"
                                                          : name_of(session.quantization()),
            name_of(base.compute), backend->threads());
        std::fputs(summary.c_str(), stderr);
    });
}

}  // namespace

void add_generate_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    arguments->sampling.max_new_tokens = 256;
    Command command =
        program.subcommand("generate", "Answer prompts with a model, with or without an adapter");
    arguments->flags.add_model(command);
    Command what = command.choice("prompt");
    what.option("--prompt", arguments->prompt, "continue this text");
    what.option("--chat", arguments->chat, "answer this message through the chat template");
    what.option("--input", arguments->input,
                "file of rows with \"prompt\", \"messages\" or other questions (.jsonl)");
    command.option("--out", arguments->out, "write JSON lines here instead of to stdout");
    command.flag("--overwrite", arguments->overwrite, kOverwriteHelp);
    command.option("--max-new-tokens", arguments->sampling.max_new_tokens, "default 256")
        .between(1, 1 << 20);
    command
        .option("--temperature", arguments->sampling.temperature,
                "0 (default): the likeliest token")
        .between(0.0, 100.0);
    command
        .option("--top-p", arguments->sampling.top_p,
                "smallest set of this probability (default 1)")
        .between(1e-6, 1.0);
    command.option("--top-k", arguments->sampling.top_k, "the k likeliest (default 0: all)")
        .between(0, 1 << 24);
    command.option("--seed", arguments->sampling.seed, "default 42");
    command.option("--batch-size", arguments->batch, "sequences at a time (default 16)")
        .between(1, 4096);
    command.flag("--json", arguments->json, "a JSON line also for one prompt");
    arguments->flags.add_compute(command);
    command.action(on_ranks<Arguments>(arguments, generate));
}

}  // namespace qshard
