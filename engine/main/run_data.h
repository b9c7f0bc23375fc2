#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "io/data/encode.h"
#include "io/data/training_set.h"
#include "io/run/run_file.h"
#include "main/session.h"
#include "spec/batch.h"
#include "spec/layout.h"

/// A run file in the terms of the engine: its data through a model's tokenizer, its options.
namespace qshard {

/// Tokenizer and chat template of a model as the data library sees them, with the run file's
/// encoding settings. The model must outlive it.
class ModelEncoder {
  public:
    ModelEncoder(const TextModel& model, const RunFile::Data& settings);
    ~ModelEncoder();
    const RowEncoder& rows() const { return *encoder_; }

  private:
    class Text;
    std::unique_ptr<Text> text_;
    std::unique_ptr<RowEncoder> encoder_;
};

/// Today as data.template_date has it, in local time, as transformers has it.
std::string local_date();
/// Makes the model's chat template say `date` (YYYY-MM-DD) for today, if it asks.
void fix_template_date(TextModel& model, const std::string& date);

DatasetOptions dataset_options(const RunFile& run);
BatchOptions batch_options(const RunFile& run);
/// Slots of a full step.
std::int64_t slots_of_step(const RunFile& run);
/// What the run file leaves to the source, "auto" and how the absmax values of a quantized one are
/// held, becomes a part of the run.
void resolve_quantization(RunFile::Model& model, const WeightReader& weights);
/// How the base's linears are stored, but for those of a source that are quantized otherwise;
/// quantization is resolved, not "auto".
WeightForm base_form(const RunFile::Model& model);

/// What a run reads before it computes anything.
struct RunInputs {
    /// Opens model and data, and resolves what the run file leaves to the model. `today` is the
    /// date for a chat template that asks for it, if the run file has none. UserError if they do
    /// not go together.
    explicit RunInputs(RunFile& run, const std::string& today = local_date());

    TextModel model;
    std::unique_ptr<TrainingSet> data;
    std::vector<Slot> validation;
    std::vector<EncodedRow> examples;  ///< of the split that eval.generate.split names
    std::int64_t validation_rows = 0;
    SplitStats validation_stats;
    std::string validation_sha256;      ///< of the rows that are evaluated
    std::vector<std::string> warnings;  ///< of the data, sentences for the screen at the start
    std::int64_t total_steps = 0;

  private:
    void note_data(const RunFile& run, const Dataset& dataset);
};

}  // namespace qshard
