#include "main/run_data.h"

#include <cmath>
#include <ctime>

#include "main/inference_session.h"
#include "main/init_adapter.h"
#include "main/train_examples.h"

namespace qshard {
namespace {

/// As TRL, which trains no supervised objective on pairs: what to learn from them is the user's
/// choice.
void refuse_pairs(const Split& split) {
    if (split.pairs.empty()) return;
    throw UserError(fmt::format(
        "{}: the row is a preference pair (chosen, rejected), which objective.type sft does not "
        "train on.\nTo train on the chosen answers, rename \"chosen\" to \"completion\", or set "
        "data.template and data.completion_column: chosen. As data.test, pairs are measured by "
        "qshard eval --split test.",
        split.pairs.front().chosen.place));
}

/// Whether rows would get an end that is not known. Conversations end as their template says.
bool no_end_token(const TextModel& model, const RunFile::Data& data) {
    return data.append_eos && model.tokenizer && !model.eos && data.format != "messages" &&
           data.format != "tokenized";
}

}  // namespace

class ModelEncoder::Text final : public TextEncoder {
  public:
    explicit Text(const TextModel& model) : model_(model) {}
    std::vector<std::int32_t> encode(std::string_view text,
                                     bool add_special_tokens) const override {
        return model_.text().encode(text, add_special_tokens);
    }
    std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                               bool add_special_tokens) const override {
        return model_.text().encode_with_offsets(text, add_special_tokens);
    }
    std::string token_text(std::int32_t id) const override {
        return model_.tokenizer ? model_.tokenizer->id_to_token(id) : "";
    }

  private:
    const TextModel& model_;
};

ModelEncoder::ModelEncoder(const TextModel& model, const RunFile::Data& settings)
    : text_(std::make_unique<Text>(model)) {
    EncodeOptions options;
    options.format.format = parse_row_format(settings.format);
    options.format.prompt_template = settings.prompt_template.value_or("");
    options.format.completion_column = settings.completion_column;
    options.loss_on_all = settings.loss_on == "all";
    options.max_length = settings.max_length;
    options.overlong = settings.overlong == "skip"    ? Overlong::kSkip
                       : settings.overlong == "error" ? Overlong::kError
                                                      : Overlong::kTruncate;
    const bool auto_bos = settings.add_bos == "auto" && model.add_bos;
    options.add_bos = auto_bos || settings.add_bos == "true" ? AddBos::kTrue : AddBos::kFalse;
    options.append_eos = settings.append_eos;
    options.bos_id = model.bos;
    options.eos_id = model.eos;
    options.vocabulary_count = model.config().vocabulary;
    options.chat_variables = model.chat_variables;
    encoder_ = std::make_unique<RowEncoder>(*text_, model.chat ? &*model.chat : nullptr,
                                            std::move(options));
}

ModelEncoder::~ModelEncoder() = default;

DatasetOptions dataset_options(const RunFile& run) {
    DatasetOptions options;
    for (const DataFile& file : run.data.train) options.train.push_back({file.path, file.weight});
    options.validation_fraction = run.data.validation_fraction.value_or(0);
    options.validation_file = run.data.validation_file.value_or("");
    options.test_file = run.data.test.value_or("");
    options.seed = run.train.seed;
    return options;
}

BatchOptions batch_options(const RunFile& run) {
    BatchOptions options;
    options.max_length = run.data.max_length;
    options.packing = run.data.packing;
    options.shuffle = run.data.shuffle;
    options.seed = run.train.seed;
    options.micro_batch_size = run.train.micro_batch_size;
    options.global_batch_size = run.train.global_batch_size;
    return options;
}

std::int64_t slots_of_step(const RunFile& run) {
    return run.train.global_batch_size / run.train.micro_batch_size;
}

void resolve_quantization(RunFile::Model& model, const WeightReader& weights) {
    const auto form = quantized_form_of(weights);
    if (model.quantization == "auto") {
        const Storage storage = form ? form->storage : Storage::kNf4;
        model.quantization = name_of(quantization_of(storage));
    }
    if (form) model.double_quant = form->double_quant;
}

WeightForm base_form(const RunFile::Model& model) {
    const Storage storage = storage_of(quantization_named(model.quantization));
    return {storage, is_four_bit(storage) && model.double_quant};
}

std::string local_date() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    localtime_r(&now, &parts);
    char text[16];
    std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
    return text;
}

void fix_template_date(TextModel& model, const std::string& date) {
    if (!model.chat || !model.chat->uses_clock()) return;
    std::tm parts{};
    check(strptime(date.c_str(), "%Y-%m-%d", &parts) != nullptr, "a date is YYYY-MM-DD");
    model.chat->pin_clock(timegm(&parts));
}

/// What is worth knowing of the data before anything is computed. UserError if something that was
/// asked for could never happen.
void RunInputs::note_data(const RunFile& run, const Dataset& dataset) {
    const std::int64_t positions = context_limit(model.config());
    validation_stats = dataset.validation.stats;
    const auto warn = [&](const SplitStats& stats, const char* name) {
        for (std::string& line : data_warnings(stats, name, run.data.max_length, positions))
            warnings.push_back(std::move(line));
    };
    warn(dataset.train.stats, "data.train");
    warn(validation_stats, "data.validation");
    if (!dataset.validation.rows.empty()) return;
    if (run.eval.early_stop) {
        throw UserError(ExitCode::kUsage,
                        "eval.early_stop is set, but there are no validation rows to stop by. Name "
                        "a file or a fraction in data.validation.");
    }
    if (run.data.validation_fraction.value_or(0) > 0)
        warnings.emplace_back(
            "data.validation: one row cannot be shared out, so none is held back");
}

RunInputs::RunInputs(RunFile& run, const std::string& today)
    : model(open_text_model(run.model.base, run.model.tokenizer)) {
    take_initial_adapter(run);
    if (model.chat && model.chat->uses_clock() && !run.data.template_date)
        run.data.template_date = today;
    if (run.data.template_date) fix_template_date(model, *run.data.template_date);
    resolve_quantization(run.model, *model.source.weights);
    const std::int64_t limit = context_limit(model.config());
    if (run.data.max_length > limit) {
        throw UserError(
            ExitCode::kUsage,
            fmt::format("data.max_length is {}, but the model was made for {} positions. Try {}.",
                        run.data.max_length, limit, limit));
    }
    if (no_end_token(model, run.data)) {
        warnings.push_back(fmt::format(
            "{}: no end token is known (eos_token of tokenizer_config.json, eos_token_id "
            "of config.json): completions and texts are trained without an end, and an answer may "
            "never stop",
            run.model.base));
    }
    const ModelEncoder encoder(model, run.data);
    Dataset dataset = load_dataset(dataset_options(run), encoder.rows());
    refuse_pairs(dataset.train);
    refuse_pairs(dataset.validation);
    note_data(run, dataset);
    std::vector<EncodedRow>& rows = dataset.validation.rows;
    if (run.eval.max_rows > 0 && static_cast<std::int64_t>(rows.size()) > run.eval.max_rows)
        rows.resize(static_cast<std::size_t>(run.eval.max_rows));
    validation_rows = static_cast<std::int64_t>(rows.size());
    validation_sha256 = sha256_of(dataset.validation);
    const bool from_test = run.eval.generate_split == "test";
    examples = choose_examples(from_test ? dataset.test.rows : rows);
    validation = evaluation_slots(rows, run.train.micro_batch_size * run.data.max_length);
    data = std::make_unique<TrainingSet>(std::move(dataset.train), batch_options(run));
    total_steps = run.train.max_steps.value_or(static_cast<std::int64_t>(
        std::ceil(run.train.epochs * static_cast<double>(data->steps_per_epoch()))));
}

}  // namespace qshard
