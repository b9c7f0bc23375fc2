#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/device_arena.h"
#include "io/data/format.h"
#include "main/adapter_file.h"
#include "main/command_line.h"
#include "main/session.h"
#include "place/frozen_base.h"
#include "place/weight_sources.h"
#include "train/inference.h"
#include "train/slot_tree.h"

/// What generate, score and eval share: a model made ready to answer, with or without an adapter.
namespace qshard {

/// How the frozen base is held.
struct BaseOptions {
    std::optional<Quantization> quantization;  ///< nothing: as the model is
    bool double_quant = true;
    DType compute = DType::kBF16;
};
/// Of a run's model section.
BaseOptions base_options(const RunFile::Model& model);

/// Flags of generate and score: a model, an adapter, and how to compute.
struct InferenceFlags {
    std::string model;
    std::optional<std::string> adapter, tokenizer;
    std::optional<std::string> quantization, compute_dtype;
    BackendChoice backend;

    void add_model(Command command);    ///< --model, --adapter, --tokenizer
    void add_compute(Command command);  ///< --backend, --compute-dtype, --quantization, ...
    /// As flagged, else as the adapter was trained, else as the model is, in bfloat16.
    BaseOptions base(const AdapterFile* trained) const;
};

/// One rank's copy of the model. The base is imported once (each rank its share, expanded unit by
/// unit) and can be used with several adapters in turn.
class InferenceSession {
  public:
    /// `source` must outlive it.
    InferenceSession(const ModelSource& source, const BaseOptions& options, Backend& backend,
                     Communicator& group, int local_ranks);
    ~InferenceSession();
    InferenceSession(const InferenceSession&) = delete;
    InferenceSession& operator=(const InferenceSession&) = delete;

    /// Makes the model with this adapter, or without one if null, the one to use; the one before
    /// is gone. `batch` and `context` are the most sequences and tokens of one. UserError if an
    /// adapter does not fit the model, or if memory does not suffice. Collective.
    Inference& use(const AdapterFile* adapter, std::int64_t batch, std::int64_t context);
    /// What most linears of the base are stored as.
    Quantization quantization() const { return layout_options_.quantization; }
    /// Frees the imported base: no use() after that.
    void release_base();

  private:
    void import();

    const ModelSource& source_;
    const DType compute_;
    Backend& backend_;
    Communicator& group_;
    const std::size_t memory_limit_;
    const LayoutOptions layout_options_;
    const ModelLayout layout_;
    AdapterLayout adapter_layout_;
    std::unique_ptr<DeviceArena> base_memory_, model_;
    std::unique_ptr<FrozenBase> base_;
    std::unique_ptr<Inference> inference_;
};

/// Tokens of the longest allowed sequence: the model's positions, with yarn those that it stretches
/// the original ones to; no limit if it names none or has dynamic ones, which stretch with the
/// text.
std::int64_t context_limit(const ModelConfig& config);

/// Text as the model's prompts begin: with the beginning-of-sequence token where its tokenizer
/// wants one.
std::vector<std::int32_t> encode_prompt(const TextModel& model, const std::string& text);
/// A conversation as training renders it, ready for the assistant's turn or, without a generation
/// prompt, as it is. UserError if the model has no chat template.
std::vector<std::int32_t> encode_chat(const TextModel& model, const ChatExample& chat,
                                      bool generation_prompt);

/// Tokens as people read them: a prompt with its special tokens, an answer without; numbers if the
/// model has no tokenizer.
std::string decode_text(const TextModel& model, const std::vector<std::int32_t>& ids, bool prompt);

/// What a command does: `body` on every rank, under mpirun or srun over MPI.
template <class Arguments>
Run on_ranks(std::shared_ptr<const Arguments> arguments,
             void (*body)(const Arguments&, Communicator& group, int local_ranks)) {
    return [arguments, body] {
        return run_ranks("auto", 1, false,
                         [&](Communicator& group, int local_ranks, const Launch*) {
                             body(*arguments, group, local_ranks);
                         });
    };
}

/// Lines of all ranks, one after the other: rows are shared out in contiguous ranges, so they are
/// in the order of the rows. Collective.
std::string gather_lines(Communicator& group, const std::string& mine);

}  // namespace qshard
