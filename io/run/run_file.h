#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace qshard {

/// A training file and its weight in the mixture.
struct DataFile {
    std::string path;
    double weight = 1.0;
};

/// The validated, fully resolved description of a run: every key of the run file with its default.
/// Paths are absolute. Keys and values that a later version will know are refused with "not
/// supported yet", never ignored.
struct RunFile {
    struct Model {
        std::string base;
        std::string quantization = "auto";  ///< as the model is, nf4 if it is not quantized
        bool double_quant = true;
        std::string compute_dtype = "bfloat16";
        std::optional<std::string> tokenizer;
    } model;
    struct Adapter {
        std::string type = "lora";
        std::int64_t r = 16;
        double alpha = 32, dropout = 0;
        /// "all-linear" alone, names or path suffixes; or empty and a regular expression instead.
        std::vector<std::string> target_modules{"all-linear"}, exclude_modules;
        std::string target_pattern, exclude_pattern;
        std::vector<std::string> target_parameters;  ///< of mixtures
        std::vector<std::string> layers{"all"};      ///< "all", or "3", "0-11"
        bool use_rslora = false, use_dora = false;
        std::vector<std::pair<std::string, std::int64_t>> rank_pattern;  ///< sorted by key
        std::vector<std::pair<std::string, double>> alpha_pattern;
        std::string init_lora_weights = "true";  ///< true | gaussian | false
        std::vector<std::string> modules_to_save;
        std::string bias = "none";
        std::optional<std::string> init_from;
    } adapter;
    struct Data {
        std::vector<DataFile> train;
        std::optional<double> validation_fraction;  ///< one of these two, or neither
        std::optional<std::string> validation_file;
        std::optional<std::string> test;
        std::string format = "auto";
        std::optional<std::string> prompt_template;  ///< data.template
        std::string completion_column = "completion";
        std::string loss_on = "completion";
        std::int64_t max_length = 512;
        bool packing = true;
        std::string overlong = "truncate";
        std::string add_bos = "auto";
        bool append_eos = true, shuffle = true;
        /// What strftime_now of a chat template says, YYYY-MM-DD; absent: the day of the first
        /// start, which the run then keeps.
        std::optional<std::string> template_date;
    } data;
    struct Train {
        std::uint64_t seed = 42;
        double epochs = 1;
        std::optional<std::int64_t> max_steps;
        std::int64_t micro_batch_size = 2, global_batch_size = 16;
        double learning_rate = 2e-4;
        std::string lr_scheduler_type = "cosine";
        double warmup_ratio = 0.03;
        std::optional<std::int64_t> warmup_steps;
        std::string optimizer = "adamw";
        double weight_decay = 0;
        std::vector<double> betas{0.9, 0.999};
        double max_grad_norm = 1.0;
        std::string recompute = "auto";
    } train;
    std::string objective_type = "sft";
    struct Placement {
        std::string mode = "auto", backend = "auto", transport = "auto";
        std::int64_t ranks_per_gpu = 1;
        std::optional<std::int64_t> threads;       ///< absent: auto
        std::optional<std::int64_t> memory_limit;  ///< bytes; absent: auto
        std::string cpu_isa = "auto";
    } placement;
    struct Eval {
        std::int64_t every = 50, max_rows = 200;
        std::string generate_split = "validation";
        std::int64_t generate_max_new_tokens = 64;
        std::vector<std::string> generate_metrics{"exact_match"};
        std::optional<std::int64_t> early_stop;  ///< evaluations without improvement
    } eval;
    struct Checkpoint {
        std::int64_t every = 100, keep = 3;
        bool on_signal = true;
        std::optional<std::int64_t> time_limit;  ///< seconds from the start; absent: auto (Slurm's)
    } checkpoint;
    struct Log {
        std::int64_t every = 1;
        bool tensorboard = true;
        std::string color = "auto";
    } log;
    std::string output;
    /// Paths of the keys that the file or an override names; the others have their defaults.
    std::set<std::string> given;

    /// The file as YAML, every key, paths absolute: runs again as it is.
    std::string to_yaml() const;
    /// The same to lie inside the output folder: `output` is the folder it lies in, so that a moved
    /// folder goes on where it is.
    std::string to_yaml_inside() const;
    /// What decides the adapter's bits, as YAML: everything but placement, evaluation, logging,
    /// checkpoints and output. Paths are reduced to file names, so that a moved folder keeps its
    /// identity: what the files hold has digests of its own.
    std::string identity_yaml() const;
};

/// UserError(kUsage) naming file, line and key, of all that is wrong at once: unknown keys (with
/// the one that was meant), wrong types, values out of range, values not supported yet, settings
/// that would have no effect. `overrides` are "key.path=value". Relative paths start at the file's
/// folder.
RunFile load_run_file(const std::filesystem::path& path, const std::vector<std::string>& overrides);

/// The same for a file's text, such as the run that a checkpoint records; `path` names it in
/// messages and is where relative paths start.
RunFile parse_run_file(const std::string& text, const std::filesystem::path& path,
                       const std::vector<std::string>& overrides);

/// "24GiB", "512 MiB", "1000000" to bytes; UserError otherwise.
std::int64_t parse_bytes(const std::string& text);
/// "10Gb/s" (bits), "1.2 GB/s" to bytes a second; UserError otherwise.
double parse_bandwidth(const std::string& text);
/// Layers listed by "all", "3", "0-11"; empty for all. UserError on anything else.
std::vector<std::int64_t> parse_layers(const std::vector<std::string>& ranges);

}  // namespace qshard
