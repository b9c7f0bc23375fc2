#include "io/run/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "io/run/key_table.h"
#include "io/run/run_file.h"
#include "spec/layout.h"
#include "spec/words.h"

namespace qshard {
namespace {

void read_train_files(const YAML::Node& node, std::vector<DataFile>& files) {
    files.clear();
    auto one = [&](const YAML::Node& item) {
        DataFile file;
        if (item.IsMap()) {
            for (const auto& pair : item) {
                const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "";
                if (key == "path") {
                    file.path = text_of(pair.second);
                } else if (key == "weight") {
                    file.weight = real_of(pair.second, 1e-6, 1e6);
                } else {
                    expected("path and weight");
                }
            }
            if (file.path.empty()) expected("a path");
        } else {
            file.path = text_of(item);
        }
        files.push_back(file);
    };
    if (node.IsSequence()) {
        for (const YAML::Node& item : node) one(item);
    } else {
        one(node);
    }
    if (files.empty()) expected("a file or a list of files");
}

YAML::Node write_train_files(const std::vector<DataFile>& files) {
    YAML::Node list;
    for (const DataFile& file : files) {
        YAML::Node item;
        item["path"] = file.path;
        item["weight"] = fmt::format("{}", file.weight);
        list.push_back(item);
    }
    return list;
}

/// A list of names, or one text: all-linear, a name, or a regular expression as PEFT has it.
void add_modules(KeyTable& t, const char* path, std::vector<std::string>& names,
                 std::string& pattern, const char* help) {
    t.add(
         path, "a word, a list of words, or a regular expression over whole paths",
         [&names, &pattern](const YAML::Node& n) {
             names.clear();
             pattern.clear();
             if (is_null(n) || (n.IsSequence() && n.size() == 0)) return;
             if (n.IsSequence()) {
                 names = text_list_of(n);
                 return;
             }
             const std::string one = text_of(n);
             if (one.find(',') != std::string::npos &&
                 one.find_first_of("(){}[]|*\\") == std::string::npos)
                 expected("a list, [q_proj, v_proj]; text is one name or a regular expression");
             const bool bare = std::all_of(one.begin(), one.end(), [](unsigned char c) {
                 return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
             });
             if (bare) {
                 names = {one};
             } else {
                 pattern = one;
             }
         },
         [&names, &pattern] {
             if (!pattern.empty()) return YAML::Node(pattern);
             if (names.empty()) return YAML::Node(YAML::NodeType::Null);
             return names.size() == 1 ? YAML::Node(names[0]) : YAML::Node(names);
         })
        .fixed("tensors")
        .help(help);
}

/// A mapping from regular expressions to values, in the order PEFT reads it back: by key.
template <class Value, class Read>
void add_pattern(KeyTable& t, const char* path, std::vector<std::pair<std::string, Value>>& pattern,
                 Read read, const char* help) {
    t.add(
         path, "a mapping from module names or expressions to values",
         [&pattern, read](const YAML::Node& n) {
             pattern.clear();
             if (is_null(n)) return;
             if (!n.IsMap()) expected("a mapping from module names to values");
             for (const auto& pair : n)
                 pattern.emplace_back(text_of(pair.first), read(pair.second));
             std::sort(pattern.begin(), pattern.end());
         },
         [&pattern] {
             YAML::Node map(YAML::NodeType::Map);
             for (const auto& [key, value] : pattern) map[key] = fmt::format("{}", value);
             return map;
         })
        .fixed()
        .help(help);
}

void add_model(KeyTable& t, RunFile& run) {
    t.string("model.base", run.model.base)
        .fixed("base_sha256")
        .path()
        .help(
            "The model to fine-tune: a Hugging Face folder (bitsandbytes 4 bit too), a .gguf file "
            "or a "
            "weight store. Required.");
    std::vector<std::string> quantizations = quantization_names();
    quantizations.insert(quantizations.begin(), "auto");
    t.choice("model.quantization", run.model.quantization, quantizations)
        .fixed()
        .help(
            "What the frozen linears are stored as. auto: as the model is, nf4 if it is not "
            "quantized. QLoRA is nf4, LoRA in 16 bits none.");
    t.flag("model.double_quant", run.model.double_quant)
        .fixed()
        .help("Quantize the scales of 4-bit blocks too (bnb_4bit_use_double_quant).");
    t.choice("model.compute_dtype", run.model.compute_dtype, compute_dtype_words())
        .fixed()
        .help("Activations and products; sums are float32 either way.");
    t.optional_string("model.tokenizer", run.model.tokenizer)
        .fixed("data_sha256")
        .path()
        .help("A tokenizer.json, or a folder with one, instead of the model's own.");
}

void add_adapter(KeyTable& t, RunFile& run) {
    t.choice("adapter.type", run.adapter.type, {"lora"})
        .fixed()
        .help("Low-rank updates of linears; DoRA is use_dora.");
    t.integer("adapter.r", run.adapter.r, 1, 1024).fixed().help("Rank of the updates (PEFT's r).");
    t.number("adapter.alpha", run.adapter.alpha, 1e-6, 1e6)
        .fixed()
        .help("An update counts alpha / r times (PEFT's lora_alpha).");
    t.number("adapter.dropout", run.adapter.dropout, 0, 0.9)
        .fixed()
        .help("Share of an update's inputs that is dropped in training (PEFT's lora_dropout).");
    add_modules(t, "adapter.target_modules", run.adapter.target_modules, run.adapter.target_pattern,
                "Linears that get an update: all-linear, names or path suffixes, or an expression; "
                "as in PEFT.");
    add_modules(t, "adapter.exclude_modules", run.adapter.exclude_modules,
                run.adapter.exclude_pattern, "Linears left out of target_modules.");
    t.add(
         "adapter.target_parameters", "a list of words, or null",
         [&run](const YAML::Node& n) {
             run.adapter.target_parameters.clear();
             if (!is_null(n) && (!n.IsSequence() || n.size() > 0))
                 run.adapter.target_parameters = text_list_of(n);
         },
         [&run] { return YAML::Node(run.adapter.target_parameters); })
        .fixed("tensors")
        .help("Of mixtures, expert tensors that get an update: mlp.experts.down_proj.");
    t.strings("adapter.layers", run.adapter.layers)
        .fixed("tensors")
        .help(
            "Decoder layers with updates: all, or numbers and ranges, [0-11, 20] "
            "(PEFT's layers_to_transform).");
    t.flag("adapter.use_rslora", run.adapter.use_rslora)
        .fixed()
        .help("An update counts alpha / sqrt(r) times.");
    // Resolved run files of versions that refused it have null.
    t.add(
         "adapter.use_dora", "true or false",
         [&run](const YAML::Node& n) { run.adapter.use_dora = !is_null(n) && flag_of(n); },
         [&run] { return YAML::Node(run.adapter.use_dora); })
        .fixed()
        .help("DoRA: the length of each row of a weight is trained beside its update.");
    add_pattern(
        t, "adapter.rank_pattern", run.adapter.rank_pattern,
        [](const YAML::Node& n) { return whole_of(n, 1, 1024); },
        "Ranks other than r, by module: {q_proj: 8}.");
    add_pattern(
        t, "adapter.alpha_pattern", run.adapter.alpha_pattern,
        [](const YAML::Node& n) { return real_of(n, 1e-6, 1e6); },
        "Alphas other than alpha, by module.");
    t.choice("adapter.init_lora_weights", run.adapter.init_lora_weights,
             words_in(kAdapterInitWords),
             {"orthogonal", "pissa", "olora", "loftq", "eva", "corda", "lora_ga"})
        .fixed()
        .help(
            "Values an update begins with. true: A as Kaiming, B zero; gaussian: A normal; "
            "false: B not zero. Not used with init_from.");
    t.choice("adapter.bias", run.adapter.bias, words_in(kAdapterBiasWords))
        .fixed()
        .help(
            "Biases of the base that are trained too: none, all, or those of linears with "
            "updates.");
    t.add(
         "adapter.modules_to_save", "a word, a list of words, or null",
         [&run](const YAML::Node& n) {
             run.adapter.modules_to_save =
                 is_null(n) ? std::vector<std::string>() : text_list_of(n);
         },
         [&run] {
             if (run.adapter.modules_to_save.empty()) return YAML::Node(YAML::NodeType::Null);
             return YAML::Node(run.adapter.modules_to_save);
         })
        .fixed()
        .help("Modules trained whole: embed_tokens, lm_head.");
    t.optional_string("adapter.init_from", run.adapter.init_from)
        .fixed()
        .path()
        .help(
            "Adapter to start from: a PEFT folder, a checkpoint or a run's output folder. The keys "
            "of "
            "this section that the run file leaves out are taken from it.");
}

void add_data(KeyTable& t, RunFile& run) {
    t.add(
         "data.train", "a file, or a list of files or {path:, weight:}",
         [&run](const YAML::Node& n) { read_train_files(n, run.data.train); },
         [&run] { return write_train_files(run.data.train); })
        .fixed("data_sha256")
        .path()
        .help(
            "Training rows: .jsonl, .json or .csv. A weight of 2 takes a file's rows "
            "twice an epoch. Required.");
    t.add(
         "data.validation", "a fraction from 0 to 0.9, a file, or null",
         [&run](const YAML::Node& n) {
             run.data.validation_fraction.reset();
             run.data.validation_file.reset();
             if (is_null(n)) return;
             double fraction = 0;
             if (n.IsScalar() && YAML::convert<double>::decode(n, fraction)) {
                 run.data.validation_fraction = real_of(n, 0, 0.9);
             } else {
                 run.data.validation_file = text_of(n);
             }
         },
         [&run] {
             if (run.data.validation_file) return YAML::Node(*run.data.validation_file);
             if (run.data.validation_fraction)
                 return YAML::Node(fmt::format("{}", *run.data.validation_fraction));
             return YAML::Node(YAML::NodeType::Null);
         })
        .fixed("data_sha256")
        .path()
        .help("Rows to evaluate on: a share of the training rows held back, or a file.");
    t.optional_string("data.test", run.data.test)
        .path()
        .help("Rows for qshard eval --split test; never trained on.");
    t.choice("data.format", run.data.format,
             {"auto", "messages", "prompt-completion", "instruction", "sharegpt", "text",
              "template", "tokenized", "preference"})
        .fixed("data_sha256")
        .help(
            "What a row is: instruction is Alpaca's, tokenized {input_ids, labels}. auto: by "
            "the columns.");
    t.optional_string("data.template", run.data.prompt_template)
        .fixed("data_sha256")
        .help(
            "The prompt of format template, with the row's columns in braces: "
            "\"{question}\\nAnswer:\". "
            "The chat template is the model's own.");
    t.string("data.completion_column", run.data.completion_column)
        .fixed("data_sha256")
        .help("The column with the answer, of format template.");
    t.choice("data.loss_on", run.data.loss_on, {"completion", "all"})
        .fixed("data_sha256")
        .help("Tokens that are trained on: answers (assistant turns), or prompts too.");
    t.integer("data.max_length", run.data.max_length, 2, 1 << 20)
        .fixed("data_sha256")
        .help("Tokens of a row of a batch; a longer document is overlong.");
    t.flag("data.packing", run.data.packing)
        .fixed("data_sha256")
        .help("Several documents in a row; none sees another, positions restart.");
    t.choice("data.overlong", run.data.overlong, {"truncate", "skip", "error"})
        .fixed("data_sha256")
        .help("What happens to a document longer than max_length.");
    t.choice("data.add_bos", run.data.add_bos, {"auto", "true", "false"})
        .fixed("data_sha256")
        .help(
            "Begin with the begin-of-sequence token; auto: as the tokenizer says. Chat templates "
            "write "
            "their own.");
    t.flag("data.append_eos", run.data.append_eos)
        .fixed("data_sha256")
        .help("End completions and texts with the end token. Chat templates write their own.");
    t.flag("data.shuffle", run.data.shuffle)
        .fixed("data_sha256")
        .help("Rows in a new order each epoch, drawn by train.seed.");
    t.add(
         "data.template_date", "auto, or a date such as 2026-01-31",
         [&run](const YAML::Node& n) {
             run.data.template_date.reset();
             if (is_null(n) || text_of(n) == "auto") return;
             run.data.template_date = text_of(n);
             if (!is_date(text_of(n))) expected("auto, or a date such as 2026-01-31");
         },
         [&run] { return YAML::Node(run.data.template_date.value_or("auto")); })
        .fixed("data_sha256")
        .help("The date that chat templates print; auto: the day of the first start.");
}

void add_train(KeyTable& t, RunFile& run) {
    t.integer("train.seed", run.train.seed, 0)
        .fixed()
        .help("Of the adapter's first values, the rows' order, dropout and the validation share.");
    t.number("train.epochs", run.train.epochs, 1e-9, 1e6)
        .identity()
        .help("Passes over the training rows, unless max_steps is given.");
    t.optional_integer("train.max_steps", run.train.max_steps, "", 1)
        .identity()
        .help("Optimizer steps, instead of epochs.");
    t.integer("train.micro_batch_size", run.train.micro_batch_size, 1, 1 << 20)
        .fixed()
        .help("Rows of max_length computed at once on a rank (per_device_train_batch_size).");
    t.integer("train.global_batch_size", run.train.global_batch_size, 1, 1 << 20)
        .fixed()
        .help(
            "Rows of one optimizer step over all ranks (micro batch x gradient accumulation x "
            "devices "
            "elsewhere); a multiple of micro_batch_size.");
    t.number("train.learning_rate", run.train.learning_rate, 0, 1e3)
        .identity()
        .help("The highest of the schedule.");
    t.choice("train.lr_scheduler_type", run.train.lr_scheduler_type, words_in(kLrSchedulerWords))
        .identity()
        .help(
            "The learning rate over the steps, as transformers has it; constant knows no "
            "warm-up.");
    t.number("train.warmup_ratio", run.train.warmup_ratio, 0, 1)
        .identity()
        .help("Share of the steps in which the learning rate grows, unless warmup_steps is given.");
    t.optional_integer("train.warmup_steps", run.train.warmup_steps, "", 0)
        .identity()
        .help("Steps in which the learning rate grows, instead of warmup_ratio.");
    t.choice("train.optimizer", run.train.optimizer, words_in(kOptimizerWords))
        .fixed()
        .help("Its state is float32. sgd has momentum 0.9, rmsprop alpha 0.99.");
    t.number("train.weight_decay", run.train.weight_decay, 0, 1e3)
        .identity()
        .help("Decay of the adapter's weights, as torch.optim has it; none for biases.");
    t.add(
         "train.betas", "two numbers, [beta1, beta2]",
         [&run](const YAML::Node& n) {
             if (!n.IsSequence() || n.size() != 2) expected("two numbers, [beta1, beta2]");
             run.train.betas = {real_of(n[0], 0, 0.999999), real_of(n[1], 0, 0.9999999)};
         },
         [&run] {
             YAML::Node list;
             for (double beta : run.train.betas) list.push_back(fmt::format("{}", beta));
             return list;
         })
        .identity()
        .help("Of adamw (adam_beta1, adam_beta2).");
    t.number("train.max_grad_norm", run.train.max_grad_norm, 0, 1e9)
        .identity()
        .help("The gradient is scaled down to this norm; 0: never.");
    t.choice("train.recompute", run.train.recompute, words_in(kRecomputeWords))
        .help(
            "Gradient checkpointing: compute activations again in the backward pass. auto: where "
            "memory "
            "asks for it. The bits stay the same.");
    t.choice("objective.type", run.objective_type, {"sft"},
             {"clm", "dpo", "orpo", "kto", "classification"})
        .fixed()
        .help("What is minimized: the loss of the trained tokens.");
}

void add_placement(KeyTable& t, RunFile& run) {
    t.choice("placement.mode", run.placement.mode, words_in(kPlacementWords, {"auto"}),
             {"hybrid", "pipeline"})
        .help(
            "Where the base lies: on every rank (DDP), a share on each (ZeRO-3, FSDP), or in the "
            "host's memory (CPU offload). auto: the first that fits.");
    t.choice("placement.backend", run.placement.backend, backend_words())
        .help("What computes. auto: GPUs if there are some; reference is slow and for comparison.");
    t.integer("placement.ranks_per_gpu", run.placement.ranks_per_gpu, 1, 64)
        .help("Ranks that may share a GPU.");
    t.choice("placement.transport", run.placement.transport,
             {"auto", "self", "threads", "mpi", "nccl"})
        .help("How ranks talk: alone, threads of one process (--ranks), MPI, or NCCL.");
    t.optional_integer("placement.threads", run.placement.threads, "auto", 1)
        .help("Threads of a rank; auto: its share of the host's cores.");
    t.optional_integer("placement.memory_limit", run.placement.memory_limit, "auto", 1, bytes_of,
                       "bytes such as 24GiB")
        .help("A plan that needs more on a rank is refused before it starts; auto: what is free.");
    t.choice("placement.cpu_isa", run.placement.cpu_isa, cpu_isa_words())
        .help("CPU kernels; auto: the best that every rank has.");
}

void add_rest(KeyTable& t, RunFile& run) {
    t.integer("eval.every", run.eval.every, 0)
        .help("Steps between evaluations on data.validation; 0: only before and after training.");
    t.integer("eval.max_rows", run.eval.max_rows, 0)
        .help("At most so many validation rows, the first ones; 0: all.");
    t.choice("eval.generate.split", run.eval.generate_split, {"validation", "test"})
        .help(
            "Where the examples at the end of training come from, and what qshard eval takes "
            "without "
            "--split.");
    t.integer("eval.generate.max_new_tokens", run.eval.generate_max_new_tokens, 0, 1 << 20)
        .help("Tokens of an answer, at most.");
    t.words("eval.generate.metrics", run.eval.generate_metrics, {"exact_match", "masks"})
        .help(
            "What qshard eval measures in answers; exact_match always, masks ([NAME] found, "
            "missed, made up) if named.");
    t.optional_integer("eval.early_stop", run.eval.early_stop, "", 1)
        .help(
            "Stop after so many evaluations in a row without a better loss "
            "(early_stopping_patience).");
    t.integer("checkpoint.every", run.checkpoint.every, 0)
        .help("Steps between checkpoints; 0: only at the end and on signals.");
    t.integer("checkpoint.keep", run.checkpoint.keep, 3, 1 << 20)
        .help("Newest checkpoints that are kept (save_total_limit).");
    t.flag("checkpoint.on_signal", run.checkpoint.on_signal)
        .help("On SIGTERM or SIGUSR1 save, and end with exit code 85.");
    t.optional_integer("checkpoint.time_limit", run.checkpoint.time_limit, "auto", 1, seconds_of,
                       "seconds, [days-]hours:minutes:seconds")
        .help(
            "Save and end with exit code 85 before so much time has passed; auto: Slurm's limit, "
            "if any.");
    t.integer("log.every", run.log.every, 1).help("Steps between lines of metrics.jsonl.");
    t.flag("log.tensorboard", run.log.tensorboard).help("Write OUTPUT/tensorboard.");
    t.choice("log.color", run.log.color, {"auto", "always", "never"})
        .help("Colours on standard error; auto: on a terminal, unless NO_COLOR is set.");
    t.string("output", run.output)
        .path()
        .help("Folder for checkpoints, adapter, metrics and report. Required.");
}

}  // namespace

std::vector<RunKey> run_keys(RunFile& run) {
    KeyTable table;
    add_model(table, run);
    add_adapter(table, run);
    add_data(table, run);
    add_train(table, run);
    add_placement(table, run);
    add_rest(table, run);
    return std::move(table.keys);
}

std::string write_keys(const std::vector<RunKey>& keys, bool identity_only) {
    YAML::Node root(YAML::NodeType::Map);
    for (const RunKey& key : keys) {
        if (identity_only && !key.identity) continue;
        YAML::Node node = root;
        std::size_t begin = 0;
        for (std::size_t dot = key.path.find('.'); dot != std::string::npos;
             dot = key.path.find('.', begin)) {
            node.reset(node[key.path.substr(begin, dot - begin)]);
            begin = dot + 1;
        }
        node[key.path.substr(begin)] = key.write();
    }
    YAML::Emitter out;
    out << root;
    return std::string(out.c_str()) + "\n";
}

}  // namespace qshard
