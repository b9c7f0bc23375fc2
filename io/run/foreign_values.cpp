#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "io/run/foreign_words.h"

namespace qshard {
namespace {

/// A value of other programs, and the one that means the same for the key `path`, or none and the
/// reason. A name that ends in '*' stands for all that begin so.
struct ForeignValue {
    std::string_view path;
    std::string_view name;
    std::string_view here;
    std::string_view note = {};
};

constexpr std::string_view kState = "its state is float32 and spread over the ranks' memory";
constexpr std::string_view kSteps = "it counts optimizer steps, 0 is never";
constexpr std::string_view kFileKind = "the kind of file follows from its name";
constexpr std::string_view kOther = "that method is not built";
constexpr std::string_view kSchedule = "that schedule is not built";
constexpr std::string_view kNotRead =
    "models quantized so are not read; plain, bitsandbytes 4 bit and GGUF ones are";

constexpr ForeignValue kValues[] = {
    {"train.optimizer", "adamw_8bit", "adamw", kState},
    {"train.optimizer", "adamw_bnb_8bit", "adamw", kState},
    {"train.optimizer", "paged_adamw*", "adamw", kState},
    {"train.optimizer", "adamw_*", "adamw"},
    {"train.optimizer", "adam", "adamw", "with train.weight_decay 0 they are one"},
    {"train.optimizer", "adam_*", "adamw", "with train.weight_decay 0 they are one"},
    {"train.optimizer", "torch.optim.adamw", "adamw"},
    {"train.optimizer", "rmsprop_*", "rmsprop", kState},
    {"train.optimizer", "sgd_*", "sgd"},
    {"train.optimizer", "adafactor", "", kOther},
    {"train.optimizer", "lion*", "", kOther},
    {"train.optimizer", "paged_lion*", "", kOther},
    {"train.optimizer", "adagrad*", "", kOther},
    {"train.optimizer", "galore*", "", kOther},
    {"train.optimizer", "ademamix*", "", kOther},
    {"train.optimizer", "muon*", "", kOther},
    {"train.optimizer", "schedule_free*", "", kOther},
    {"train.optimizer", "lomo", "", kOther},
    {"train.optimizer", "adalomo", "", kOther},
    {"train.lr_scheduler_type", "cosine_with_restarts", "cosine", "without restarts"},
    {"train.lr_scheduler_type", "cosine_annealing", "cosine"},
    {"train.lr_scheduler_type", "cosine_*", "cosine", "it ends at 0"},
    {"train.lr_scheduler_type", "polynomial", "linear", "which is its power 1"},
    {"train.lr_scheduler_type", "inverse_sqrt", "", kSchedule},
    {"train.lr_scheduler_type", "reduce_lr_on_plateau", "", kSchedule},
    {"train.lr_scheduler_type", "warmup_stable_decay", "", kSchedule},
    {"train.lr_scheduler_type", "one_cycle", "", kSchedule},
    {"train.lr_scheduler_type", "rex", "", kSchedule},
    {"train.lr_scheduler_type", "piecewise_constant", "", kSchedule},
    {"train.lr_scheduler_type", "warmup", "constant_with_warmup"},
    {"train.recompute", "true", "always"},
    {"train.recompute", "unsloth", "always"},
    {"train.recompute", "full", "always"},
    {"train.recompute", "selective", "auto"},
    {"train.recompute", "offload", "always"},
    {"train.recompute", "false", "never"},
    {"train.recompute", "none", "never"},
    {"train.max_steps", "-1", "null", "as many steps as train.epochs needs"},
    {"train.max_steps", "0", "null", "as many steps as train.epochs needs"},
    {"train.warmup_steps", "0.*", "", "a share of the steps is train.warmup_ratio"},
    {"train.learning_rate", "auto", "", "2e-4 is usual for LoRA"},
    {"train.global_batch_size", "auto", "", "it decides the result, so it is said"},
    {"train.micro_batch_size", "auto", "", "qshard plan says what fits"},
    {"train.max_grad_norm", "null", "0", "which never clips"},
    {"train.max_grad_norm", "none", "0", "which never clips"},
    {"adapter.type", "lora", "lora"},
    {"adapter.type", "qlora", "lora", "with model.quantization nf4"},
    {"adapter.type", "dora", "lora", "with adapter.use_dora: true"},
    {"adapter.type", "qdora", "lora", "with adapter.use_dora: true"},
    {"adapter.type", "rslora", "lora", "with adapter.use_rslora: true"},
    {"adapter.type", "full", "", "only adapters are trained"},
    {"adapter.type", "freeze", "", "only adapters are trained"},
    {"adapter.type", "none", "", "only adapters are trained"},
    {"adapter.type", "null", "", "only adapters are trained"},
    {"adapter.type", "*", "", kOther},
    {"adapter.r", "auto", "", "it decides the result, so it is said"},
    {"adapter.layers", "null", "all"},
    {"adapter.init_lora_weights", "default", "true"},
    {"adapter.init_lora_weights", "kaiming*", "true"},
    {"adapter.init_lora_weights", "pissa_*", "", kOther},
    {"adapter.bias", "false", "none"},
    {"adapter.bias", "null", "none"},
    {"adapter.bias", "true", "all"},
    {"adapter.use_dora", "null", "false"},
    {"model.quantization", "4", "nf4"},
    {"model.quantization", "4bit", "nf4"},
    {"model.quantization", "4_bit", "nf4"},
    {"model.quantization", "int4", "nf4"},
    {"model.quantization", "bnb*", "nf4"},
    {"model.quantization", "bitsandbytes", "nf4"},
    {"model.quantization", "true", "nf4"},
    {"model.quantization", "qlora", "nf4"},
    {"model.quantization", "8", "int8"},
    {"model.quantization", "8bit", "int8"},
    {"model.quantization", "8_bit", "int8"},
    {"model.quantization", "llm_int8", "int8", "by rows, without outliers"},
    {"model.quantization", "16*", "none"},
    {"model.quantization", "bf16", "none"},
    {"model.quantization", "bfloat16", "none"},
    {"model.quantization", "fp16", "none"},
    {"model.quantization", "false", "none"},
    {"model.quantization", "no", "none"},
    {"model.quantization", "null", "none", "or auto: as the model is"},
    {"model.quantization", "gptq*", "", kNotRead},
    {"model.quantization", "awq*", "", kNotRead},
    {"model.quantization", "hqq*", "", kNotRead},
    {"model.quantization", "aqlm", "", kNotRead},
    {"model.quantization", "fp8*", "", kNotRead},
    {"model.quantization", "mxfp4", "", kNotRead},
    {"model.quantization", "q4_*", "auto", "which keeps a GGUF file's own"},
    {"model.compute_dtype", "bf16", "bfloat16"},
    {"model.compute_dtype", "torch.bfloat16", "bfloat16"},
    {"model.compute_dtype", "auto", "bfloat16"},
    {"model.compute_dtype", "true", "bfloat16"},
    {"model.compute_dtype", "fp32", "float32"},
    {"model.compute_dtype", "float", "float32"},
    {"model.compute_dtype", "torch.float32", "float32"},
    {"model.compute_dtype", "fp16", "bfloat16", "float16 is not computed in"},
    {"model.compute_dtype", "float16", "bfloat16", "float16 is not computed in"},
    {"model.compute_dtype", "half", "bfloat16", "float16 is not computed in"},
    {"model.compute_dtype", "torch.float16", "bfloat16", "float16 is not computed in"},
    {"data.format", "alpaca*", "instruction"},
    {"data.format", "chat_template", "messages"},
    {"data.format", "chatml*", "messages"},
    {"data.format", "openai*", "messages"},
    {"data.format", "conversational", "messages"},
    {"data.format", "conversation", "messages"},
    {"data.format", "chat", "messages"},
    {"data.format", "conversations", "sharegpt"},
    {"data.format", "vicuna*", "sharegpt"},
    {"data.format", "completion", "text"},
    {"data.format", "pretrain*", "text"},
    {"data.format", "language_modeling", "text"},
    {"data.format", "prompt_completion", "prompt-completion"},
    {"data.format", "input_output", "template"},
    {"data.format", "context_qa*", "template"},
    {"data.format", "pretokenized", "tokenized"},
    {"data.format", "dpo", "preference"},
    {"data.format", "ranking", "preference"},
    {"data.format", "json", "auto", kFileKind},
    {"data.format", "jsonl", "auto", kFileKind},
    {"data.format", "csv", "auto", kFileKind},
    {"data.format", "parquet", "", "Parquet files are not read; save them as JSON lines"},
    {"data.format", "arrow", "", "Arrow files are not read; save them as JSON lines"},
    {"data.loss_on", "assistant*", "completion"},
    {"data.loss_on", "completions", "completion"},
    {"data.loss_on", "response*", "completion"},
    {"data.loss_on", "answer", "completion"},
    {"data.loss_on", "prompt", "all"},
    {"data.loss_on", "true", "all"},
    {"data.loss_on", "false", "completion"},
    {"data.overlong", "drop", "skip"},
    {"data.overlong", "filter", "skip"},
    {"data.overlong", "raise", "error"},
    {"data.overlong", "keep_start", "truncate"},
    {"data.overlong", "truncation", "truncate"},
    {"data.overlong", "true", "truncate"},
    {"data.packing", "bfd", "true"},
    {"data.packing", "wrapped", "true", "documents are packed whole"},
    {"data.max_length", "auto", "", "it decides memory and time, so it is said"},
    {"data.max_length", "null", "", "it decides memory and time, so it is said"},
    {"objective.type", "sft", "sft"},
    {"objective.type", "pt", "", "with data.format text every token is trained on"},
    {"objective.type", "pretrain*", "", "with data.format text every token is trained on"},
    {"objective.type", "causal_lm", "sft"},
    {"objective.type", "completion", "sft"},
    {"objective.type", "nll", "sft"},
    {"objective.type", "*", "", "sft is what is built"},
    {"placement.mode", "zero3*", "gathered"},
    {"placement.mode", "zero*", "replicated", "the optimizer holds little with adapters"},
    {"placement.mode", "fsdp*", "gathered"},
    {"placement.mode", "full_shard", "gathered"},
    {"placement.mode", "sharded", "gathered"},
    {"placement.mode", "shard_grad_op", "replicated"},
    {"placement.mode", "no_shard", "replicated"},
    {"placement.mode", "deepspeed", "gathered"},
    {"placement.mode", "ddp", "replicated"},
    {"placement.mode", "dp", "replicated"},
    {"placement.mode", "offload", "host_streamed"},
    {"placement.mode", "cpu_offload", "host_streamed"},
    {"placement.mode", "tensor*", "", kOther},
    {"placement.mode", "tp", "", kOther},
    {"placement.backend", "gpu*", "cuda"},
    {"placement.backend", "cuda:*", "cuda", "which GPU follows from the rank"},
    {"placement.backend", "mps", "cpu"},
    {"placement.backend", "rocm", "", "AMD's GPUs are not computed on"},
    {"placement.transport", "gloo", "mpi"},
    {"placement.transport", "openmpi", "mpi"},
    {"placement.transport", "tcp", "mpi"},
    {"placement.memory_limit", "null", "auto"},
    {"placement.threads", "0", "auto"},
    {"placement.threads", "-1", "auto"},
    {"eval.every", "no", "0"},
    {"eval.every", "false", "0"},
    {"eval.every", "null", "0"},
    {"eval.every", "epoch", "", kSteps},
    {"eval.every", "steps", "", kSteps},
    {"eval.every", "0.*", "", kSteps},
    {"eval.early_stop", "true", "", "how many evaluations in a row may bring nothing: 3, for one"},
    {"eval.early_stop", "false", "null"},
    {"eval.early_stop", "0", "null"},
    {"checkpoint.every", "no", "0"},
    {"checkpoint.every", "false", "0"},
    {"checkpoint.every", "null", "0"},
    {"checkpoint.every", "epoch", "", kSteps},
    {"checkpoint.every", "steps", "", kSteps},
    {"checkpoint.every", "best", "", kSteps},
    {"checkpoint.every", "0.*", "", kSteps},
    {"checkpoint.time_limit", "null", "auto"},
    {"log.color", "true", "always"},
    {"log.color", "false", "never"},
    {"log.tensorboard", "tensorboard", "true"},
    {"log.tensorboard", "none", "false"},
    {"log.tensorboard", "all", "true"},
    {"log.tensorboard", "wandb", "", "nothing is sent over the network"},
};

bool fits(std::string_view pattern, std::string_view name) {
    if (!pattern.ends_with('*')) return pattern == name;
    return name.starts_with(pattern.substr(0, pattern.size() - 1));
}

}  // namespace

std::string folded_word(std::string_view word) {
    std::string text;
    for (const char c : word)
        text += c == '-' && !text.empty()
                    ? '_'
                    : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
}

std::optional<std::string> foreign_value(std::string_view path, std::string_view value) {
    const std::string folded = folded_word(value);
    for (const ForeignValue& word : kValues) {
        if (word.path != path || !fits(word.name, folded)) continue;
        if (folded == word.here) return std::nullopt;
        if (word.here.empty()) return fmt::format("{}: {}", value, word.note);
        std::string text = fmt::format("{} is {} here", value, word.here);
        if (!word.note.empty()) text += fmt::format(": {}", word.note);
        return text;
    }
    return std::nullopt;
}

}  // namespace qshard
