#include "main/inference_session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "comm/agree.h"
#include "io/data/conversation.h"
#include "main/progress.h"
#include "train/trainer.h"

namespace qshard {
namespace {

constexpr std::int64_t kPassTokens = 512;  ///< of one forward pass over prompts

LayoutOptions agreed_layout(const WeightReader& source, const BaseOptions& base,
                            Communicator& group) {
    LayoutOptions options;
    agree(group, "planning the memory", [&] {
        const auto form = quantized_form_of(source);
        const Quantization as_it_is = form ? quantization_of(form->storage) : Quantization::kNone;
        options = layout_options_for(source, base.quantization.value_or(as_it_is),
                                     base.double_quant, base.compute);
    });
    return options;
}

}  // namespace

BaseOptions base_options(const RunFile::Model& model) {
    BaseOptions options;
    if (model.quantization != "auto") options.quantization = quantization_named(model.quantization);
    options.double_quant = model.double_quant;
    options.compute = dtype_named(model.compute_dtype).value();
    return options;
}

void InferenceFlags::add_model(Command command) {
    command.option("--model", model, "GGUF file or Hugging Face folder").required();
    command.option("--adapter", adapter, "PEFT folder, checkpoint (.h5) or output folder of a run");
    command.option("--tokenizer", tokenizer, "tokenizer.json instead of the model's own");
}

void InferenceFlags::add_compute(Command command) {
    command.option("--backend", backend.backend, "auto | cpu | cuda | reference")
        .one_of(backend_words());
    command.option("--compute-dtype", compute_dtype, "bfloat16 | float32")
        .one_of(compute_dtype_words());
    command
        .option("--quantization", quantization,
                fmt::format("{} (default: as the adapter was trained, else as the model is)",
                            fmt::join(quantization_names(), " | ")))
        .one_of(quantization_names());
    command.option("--cpu-isa", backend.cpu_isa,
                   "kernels: auto | amx_bf16 | avx512_bf16 | avx512 | avx2 | sse");
    command.option("--threads", backend.threads, "per rank (default: all cores of the host)")
        .between(1, 4096);
}

BaseOptions InferenceFlags::base(const AdapterFile* trained) const {
    BaseOptions base;
    if (trained != nullptr && trained->run) base = base_options(trained->run->model);
    if (quantization) base.quantization = quantization_named(*quantization);
    if (compute_dtype) base.compute = dtype_named(*compute_dtype).value();
    return base;
}

InferenceSession::InferenceSession(const ModelSource& source, const BaseOptions& options,
                                   Backend& backend, Communicator& group, int local_ranks)
    : source_(source),
      compute_(options.compute),
      backend_(backend),
      group_(group),
      memory_limit_(default_memory_limit(backend, local_ranks)),
      layout_options_(agreed_layout(*source.weights, options, group)),
      layout_(make_layout(source.weights->config(), layout_options_)) {}

InferenceSession::~InferenceSession() = default;

void InferenceSession::import() {
    const int world = group_.count();
    auto memory = std::make_unique<DeviceArena>(backend_);
    auto base = std::make_unique<FrozenBase>(
        backend_, group_, layout_,
        world > 1 ? PlacementMode::kGathered : PlacementMode::kReplicated, *memory);
    agree(group_, "taking memory for the base", [&] { memory->commit(); });
    ProgressBar bar("loading the model", 100, TerminalStyle::of_stderr("auto"),
                    group_.rank() == 0 && isatty(STDERR_FILENO) == 1);
    base->load(*source_.weights, layout_options_, backend_.threads(),
               [&](std::int64_t done, std::int64_t total) {
                   bar.update(done * 100 / std::max<std::int64_t>(total, 1), "");
               });
    base_memory_ = std::move(memory);
    base_ = std::move(base);
}

Inference& InferenceSession::use(const AdapterFile* adapter, std::int64_t batch,
                                 std::int64_t context) {
    inference_.reset();
    model_ = std::make_unique<DeviceArena>(backend_);
    std::vector<float> values;
    Arena::Handle place = 0;
    agree(group_, "planning the memory", [&] {
        if (adapter != nullptr) adapter_layout_ = fit_adapter(*adapter, *source_.weights);
        InferenceOptions options;
        options.compute = compute_;
        options.max_sequences = batch;
        options.max_context = context;
        options.max_tokens = std::max(batch, std::min(context * batch, kPassTokens));
        inference_ = std::make_unique<Inference>(backend_, source_.weights->config(), layout_,
                                                 adapter == nullptr ? nullptr : &adapter_layout_,
                                                 options, *model_);
        if (adapter != nullptr) {
            values = flat_values(*adapter, adapter_layout_);
            place = model_->reserve("adapter", values.size() * sizeof(float));
        }
        const int world = group_.count();
        const std::size_t base =
            layout_.bytes() / static_cast<std::size_t>(world) +
            (world > 1 ? GatheredSource::buffer_bytes(layout_, world) : std::size_t{0});
        const std::size_t needed = model_->total_bytes() + backend_.workspace_bytes() + base;
        if (memory_limit_ > 0 && needed > memory_limit_) {
            throw UserError(
                ExitCode::kUnavailable,
                fmt::format("rank {} needs {} to run the model, {} are free.\nTry a smaller "
                            "--batch-size or --max-new-tokens, or shorter prompts.",
                            group_.rank(), human_bytes(needed), human_bytes(memory_limit_)));
        }
    });
    if (!base_) import();
    agree(group_, "taking memory for the model", [&] { model_->commit(); });
    float* flat = nullptr;
    if (adapter != nullptr) {
        flat = reinterpret_cast<float*>(model_->at(place));
        backend_.upload(flat, values.data(), values.size() * sizeof(float));
    }
    inference_->start(base_->source(), flat);
    return *inference_;
}

void InferenceSession::release_base() {
    base_.reset();
    base_memory_.reset();
}

std::int64_t context_limit(const ModelConfig& config) {
    constexpr std::int64_t kNone = std::numeric_limits<std::int32_t>::max();
    if (config.max_positions <= 0) return kNone;
    const bool one = config.ropes.size() == 1;
    if (one && config.ropes[0].kind == RopeKind::kDynamic) return kNone;
    if (one && config.ropes[0].kind == RopeKind::kYarn) {
        const RopeConfig& rope = config.ropes[0];
        const double stretched = rope.factor * static_cast<double>(rope.original_max_positions);
        return std::clamp(
            static_cast<std::int64_t>(std::min(stretched, static_cast<double>(kNone))),
            config.max_positions, kNone);
    }
    return config.max_positions;
}

std::vector<std::int32_t> encode_prompt(const TextModel& model, const std::string& text) {
    std::vector<std::int32_t> ids = model.text().encode(text, false);
    if (model.add_bos && model.bos && (ids.empty() || ids.front() != *model.bos))
        ids.insert(ids.begin(), *model.bos);
    return ids;
}

std::vector<std::int32_t> encode_chat(const TextModel& model, const ChatExample& chat,
                                      bool generation_prompt) {
    if (!model.chat) {
        throw UserError(fmt::format("{} has no chat template; give a plain prompt instead",
                                    model.source.path.string()));
    }
    const Conversation conversation(*model.chat, chat, model.chat_variables);
    return model.text().encode(conversation.render(conversation.count(), generation_prompt).text,
                               false);
}

std::string decode_text(const TextModel& model, const std::vector<std::int32_t>& ids, bool prompt) {
    if (!model.tokenizer) return fmt::format("{}", fmt::join(ids, " "));
    return model.tokenizer->decode(ids, !prompt);
}

std::string gather_lines(Communicator& group, const std::string& mine) {
    std::string all;
    for (const std::string& part : group.all_gather_strings(mine)) all += part;
    return all;
}

}  // namespace qshard
