#include "io/run/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "io/run/run_file.h"
#include "spec/layout.h"

namespace qshard {
namespace {

/// Thrown by a reader; the caller adds file, line and key.
[[noreturn]] void expected(const std::string& what) {
    throw what;
}

template <class T>
T scalar(const YAML::Node& node, const char* what) {
    T value{};
    if (!node.IsScalar() || !YAML::convert<T>::decode(node, value)) expected(what);
    return value;
}

bool is_null(const YAML::Node& node) {
    return !node.IsDefined() || node.IsNull();
}

std::string text(const YAML::Node& node) {
    return scalar<std::string>(node, "text");
}

std::vector<std::string> text_list(const YAML::Node& node) {
    if (node.IsScalar()) return {node.as<std::string>()};
    if (!node.IsSequence() || node.size() == 0) expected("a word or a list of words");
    std::vector<std::string> list;
    for (const YAML::Node& item : node) list.push_back(text(item));
    return list;
}

/// Builds the table; each method binds one key to one member.
class Table {
  public:
    std::vector<RunKey> keys;

    Table& identity() {
        keys.back().identity = true;
        return *this;
    }
    Table& add(std::string path, std::function<void(const YAML::Node&)> read,
               std::function<YAML::Node()> write) {
        keys.push_back({std::move(path), false, std::move(read), std::move(write)});
        return *this;
    }
    Table& flag(std::string path, bool& member) {
        return add(
            std::move(path),
            [&member](const YAML::Node& n) { member = scalar<bool>(n, "true or false"); },
            [&member] { return YAML::Node(member); });
    }
    Table& string(std::string path, std::string& member) {
        return add(
            std::move(path), [&member](const YAML::Node& n) { member = text(n); },
            [&member] { return YAML::Node(member); });
    }
    Table& optional_string(std::string path, std::optional<std::string>& member) {
        return add(
            std::move(path),
            [&member](const YAML::Node& n) {
                member = is_null(n) ? std::nullopt : std::optional<std::string>(text(n));
            },
            [&member] { return member ? YAML::Node(*member) : YAML::Node(YAML::NodeType::Null); });
    }
    /// One of `known`; those of `later` are words of a later version.
    Table& choice(std::string path, std::string& member, const std::vector<std::string>& known,
                  const std::vector<std::string>& later = {}) {
        return add(
            std::move(path),
            [&member, known, later](const YAML::Node& n) {
                const auto value = text(n);
                if (std::find(later.begin(), later.end(), value) != later.end()) {
                    expected(fmt::format("{} (\"{}\" is not supported yet)", fmt::join(known, ", "),
                                         value));
                }
                if (std::find(known.begin(), known.end(), value) == known.end()) {
                    expected(fmt::format("one of: {}", fmt::join(known, ", ")));
                }
                member = value;
            },
            [&member] { return YAML::Node(member); });
    }
    Table& number(std::string path, double& member, double low, double high) {
        return add(
            std::move(path),
            [&member, low, high](const YAML::Node& n) { member = real(n, low, high); },
            [&member] { return YAML::Node(fmt::format("{}", member)); });
    }
    template <class Integer>
    Table& integer(const std::string& path, Integer& member, std::int64_t low,
                   std::int64_t high = INT64_MAX) {
        return add(
            path,
            [&member, low, high](const YAML::Node& n) {
                member = static_cast<Integer>(whole(n, low, high));
            },
            [&member] { return YAML::Node(member); });
    }
    /// A whole number, or `word` for absent ("auto" or null).
    Table& optional_integer(std::string path, std::optional<std::int64_t>& member,
                            const std::string& word, std::int64_t low,
                            std::int64_t (*parse)(const YAML::Node&) = nullptr) {
        return add(
            std::move(path),
            [=, &member](const YAML::Node& n) {
                if (is_null(n) || (n.IsScalar() && n.Scalar() == word)) {
                    member.reset();
                } else {
                    member = parse != nullptr ? parse(n) : whole(n, low, INT64_MAX);
                }
            },
            [=, &member] {
                if (member) return YAML::Node(*member);
                return word.empty() ? YAML::Node(YAML::NodeType::Null) : YAML::Node(word);
            });
    }
    Table& strings(std::string path, std::vector<std::string>& member) {
        return add(
            std::move(path), [&member](const YAML::Node& n) { member = text_list(n); },
            [&member] { return member.size() == 1 ? YAML::Node(member[0]) : YAML::Node(member); });
    }

    static double real(const YAML::Node& n, double low, double high) {
        const auto value = scalar<double>(n, "a number");
        if (!std::isfinite(value) || value < low || value > high) {
            expected(fmt::format("a number from {} to {}", low, high));
        }
        return value;
    }
    static std::int64_t whole(const YAML::Node& n, std::int64_t low, std::int64_t high) {
        const auto value = scalar<std::int64_t>(n, "a whole number");
        if (value < low || value > high) {
            expected(high == INT64_MAX ? fmt::format("a whole number of at least {}", low)
                                       : fmt::format("a whole number from {} to {}", low, high));
        }
        return value;
    }
};

std::int64_t bytes_of_node(const YAML::Node& node) {
    try {
        return parse_bytes(text(node));
    } catch (const Error& error) {
        expected("auto, or bytes such as 24GiB");
    }
}

std::int64_t seconds_of_node(const YAML::Node& node) {
    const std::string value = text(node);
    std::int64_t seconds = 0, part = 0;
    bool digit = false;
    for (char c : value + ":") {
        if (c >= '0' && c <= '9' && part < 1000000) {
            part = part * 10 + (c - '0');
            digit = true;
        } else if (c == ':' && digit) {
            seconds = seconds * 60 + part;
            part = 0;
            digit = false;
        } else {
            expected("auto, seconds, or hours:minutes:seconds");
        }
    }
    return seconds;
}

void read_train_files(const YAML::Node& node, std::vector<DataFile>& files) {
    files.clear();
    auto one = [&](const YAML::Node& item) {
        DataFile file;
        if (item.IsMap()) {
            for (const auto& pair : item) {
                const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "";
                if (key == "path") {
                    file.path = text(pair.second);
                } else if (key == "weight") {
                    file.weight = Table::real(pair.second, 1e-6, 1e6);
                } else {
                    expected("path and weight");
                }
            }
            if (file.path.empty()) expected("a path");
        } else {
            file.path = text(item);
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

std::vector<std::string> run_quantizations() {
    std::vector<std::string> words = quantization_names();
    words.insert(words.begin(), "auto");
    return words;
}

/// A list of names, or one text: all-linear, a name, or a regular expression as PEFT has it.
void add_modules(Table& t, const char* path, std::vector<std::string>& names,
                 std::string& pattern) {
    t.add(
         path,
         [&names, &pattern](const YAML::Node& n) {
             names.clear();
             pattern.clear();
             if (is_null(n) || (n.IsSequence() && n.size() == 0)) return;
             if (n.IsSequence()) {
                 names = text_list(n);
                 return;
             }
             const std::string one = text(n);
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
        .identity();
}

/// A mapping from regular expressions to values, in the order PEFT reads it back: by key.
template <class Value, class Read>
void add_pattern(Table& t, const char* path, std::vector<std::pair<std::string, Value>>& pattern,
                 Read read) {
    t.add(
         path,
         [&pattern, read](const YAML::Node& n) {
             pattern.clear();
             if (is_null(n)) return;
             if (!n.IsMap()) expected("a mapping from module names to values");
             for (const auto& pair : n) pattern.emplace_back(text(pair.first), read(pair.second));
             std::sort(pattern.begin(), pattern.end());
         },
         [&pattern] {
             YAML::Node map(YAML::NodeType::Map);
             for (const auto& [key, value] : pattern) map[key] = fmt::format("{}", value);
             return map;
         })
        .identity();
}

void add_model_and_adapter(Table& t, RunFile& run) {
    t.string("model.base", run.model.base).identity();
    t.choice("model.quantization", run.model.quantization, run_quantizations()).identity();
    t.flag("model.double_quant", run.model.double_quant).identity();
    t.choice("model.compute_dtype", run.model.compute_dtype, {"bfloat16", "float32"}).identity();
    t.optional_string("model.tokenizer", run.model.tokenizer).identity();
    t.choice("adapter.type", run.adapter.type, {"lora"}).identity();
    t.integer("adapter.r", run.adapter.r, 1, 1024).identity();
    t.number("adapter.alpha", run.adapter.alpha, 1e-6, 1e6).identity();
    t.number("adapter.dropout", run.adapter.dropout, 0, 0.9).identity();
    add_modules(t, "adapter.target_modules", run.adapter.target_modules,
                run.adapter.target_pattern);
    add_modules(t, "adapter.exclude_modules", run.adapter.exclude_modules,
                run.adapter.exclude_pattern);
    t.add(
         "adapter.target_parameters",
         [&run](const YAML::Node& n) {
             run.adapter.target_parameters.clear();
             if (!is_null(n) && (!n.IsSequence() || n.size() > 0))
                 run.adapter.target_parameters = text_list(n);
         },
         [&run] { return YAML::Node(run.adapter.target_parameters); })
        .identity();
    t.strings("adapter.layers", run.adapter.layers).identity();
    t.flag("adapter.use_rslora", run.adapter.use_rslora).identity();
    // Resolved run files of versions that refused it have null.
    t.add(
         "adapter.use_dora",
         [&run](const YAML::Node& n) {
             run.adapter.use_dora = !is_null(n) && scalar<bool>(n, "true or false");
         },
         [&run] { return YAML::Node(run.adapter.use_dora); })
        .identity();
    add_pattern(t, "adapter.rank_pattern", run.adapter.rank_pattern,
                [](const YAML::Node& n) { return Table::whole(n, 1, 1024); });
    add_pattern(t, "adapter.alpha_pattern", run.adapter.alpha_pattern,
                [](const YAML::Node& n) { return Table::real(n, 1e-6, 1e6); });
    t.choice("adapter.init_lora_weights", run.adapter.init_lora_weights,
             {"true", "gaussian", "false"},
             {"orthogonal", "pissa", "olora", "loftq", "eva", "corda", "lora_ga"})
        .identity();
    t.choice("adapter.bias", run.adapter.bias, {"none", "all", "lora_only"}).identity();
    t.add(
         "adapter.modules_to_save",
         [&run](const YAML::Node& n) {
             run.adapter.modules_to_save = is_null(n) ? std::vector<std::string>() : text_list(n);
         },
         [&run] {
             if (run.adapter.modules_to_save.empty()) return YAML::Node(YAML::NodeType::Null);
             return YAML::Node(run.adapter.modules_to_save);
         })
        .identity();
    t.optional_string("adapter.init_from", run.adapter.init_from).identity();
}

void add_data(Table& t, RunFile& run) {
    t.add(
         "data.train", [&run](const YAML::Node& n) { read_train_files(n, run.data.train); },
         [&run] { return write_train_files(run.data.train); })
        .identity();
    t.add(
         "data.validation",
         [&run](const YAML::Node& n) {
             run.data.validation_fraction.reset();
             run.data.validation_file.reset();
             if (is_null(n)) return;
             double fraction = 0;
             if (n.IsScalar() && YAML::convert<double>::decode(n, fraction)) {
                 run.data.validation_fraction = Table::real(n, 0, 0.9);
             } else {
                 run.data.validation_file = text(n);
             }
         },
         [&run] {
             if (run.data.validation_file) return YAML::Node(*run.data.validation_file);
             if (run.data.validation_fraction)
                 return YAML::Node(fmt::format("{}", *run.data.validation_fraction));
             return YAML::Node(YAML::NodeType::Null);
         })
        .identity();
    t.optional_string("data.test", run.data.test);
    t.choice("data.format", run.data.format,
             {"auto", "messages", "prompt-completion", "instruction", "sharegpt", "text",
              "template", "tokenized", "preference"})
        .identity();
    t.optional_string("data.template", run.data.prompt_template).identity();
    t.string("data.completion_column", run.data.completion_column).identity();
    t.choice("data.loss_on", run.data.loss_on, {"completion", "all"}).identity();
    t.integer("data.max_length", run.data.max_length, 2, 1 << 20).identity();
    t.flag("data.packing", run.data.packing).identity();
    t.choice("data.overlong", run.data.overlong, {"truncate", "skip", "error"}).identity();
    t.choice("data.add_bos", run.data.add_bos, {"auto", "true", "false"}).identity();
    t.flag("data.append_eos", run.data.append_eos).identity();
    t.flag("data.shuffle", run.data.shuffle).identity();
}

void add_train(Table& t, RunFile& run) {
    t.integer("train.seed", run.train.seed, 0).identity();
    t.number("train.epochs", run.train.epochs, 1e-9, 1e6).identity();
    t.optional_integer("train.max_steps", run.train.max_steps, "", 1).identity();
    t.integer("train.micro_batch_size", run.train.micro_batch_size, 1, 1 << 20).identity();
    t.integer("train.global_batch_size", run.train.global_batch_size, 1, 1 << 20).identity();
    t.number("train.learning_rate", run.train.learning_rate, 0, 1e3).identity();
    t.choice("train.lr_scheduler_type", run.train.lr_scheduler_type,
             {"constant", "linear", "cosine", "constant_with_warmup"})
        .identity();
    t.number("train.warmup_ratio", run.train.warmup_ratio, 0, 1).identity();
    t.optional_integer("train.warmup_steps", run.train.warmup_steps, "", 0).identity();
    t.choice("train.optimizer", run.train.optimizer, {"adamw", "sgd", "rmsprop"}).identity();
    t.number("train.weight_decay", run.train.weight_decay, 0, 1e3).identity();
    t.add(
         "train.betas",
         [&run](const YAML::Node& n) {
             if (!n.IsSequence() || n.size() != 2) expected("two numbers, [beta1, beta2]");
             run.train.betas = {Table::real(n[0], 0, 0.999999), Table::real(n[1], 0, 0.9999999)};
         },
         [&run] {
             YAML::Node list;
             for (double beta : run.train.betas) list.push_back(fmt::format("{}", beta));
             return list;
         })
        .identity();
    t.number("train.max_grad_norm", run.train.max_grad_norm, 0, 1e9).identity();
    t.choice("train.recompute", run.train.recompute, {"auto", "always", "never"});
    t.choice("objective.type", run.objective_type, {"sft"},
             {"clm", "dpo", "orpo", "kto", "classification"})
        .identity();
}

void add_rest(Table& t, RunFile& run) {
    t.choice("placement.mode", run.placement.mode,
             {"auto", "replicated", "gathered", "host_streamed"}, {"hybrid", "pipeline"});
    t.choice("placement.backend", run.placement.backend, {"auto", "cpu", "cuda", "reference"});
    t.integer("placement.ranks_per_gpu", run.placement.ranks_per_gpu, 1, 64);
    t.choice("placement.transport", run.placement.transport,
             {"auto", "self", "threads", "mpi", "nccl"});
    t.optional_integer("placement.threads", run.placement.threads, "auto", 1);
    t.optional_integer("placement.memory_limit", run.placement.memory_limit, "auto", 1,
                       bytes_of_node);
    t.choice("placement.cpu_isa", run.placement.cpu_isa,
             {"auto", "amx_bf16", "avx512_bf16", "avx512", "avx2", "sse"});
    t.integer("eval.every", run.eval.every, 0);
    t.integer("eval.max_rows", run.eval.max_rows, 0);
    t.choice("eval.generate.split", run.eval.generate_split, {"validation", "test"});
    t.integer("eval.generate.max_new_tokens", run.eval.generate_max_new_tokens, 0, 1 << 20);
    t.strings("eval.generate.metrics", run.eval.generate_metrics);
    t.optional_integer("eval.early_stop", run.eval.early_stop, "", 1);
    t.integer("checkpoint.every", run.checkpoint.every, 0);
    t.integer("checkpoint.keep", run.checkpoint.keep, 3, 1 << 20);
    t.flag("checkpoint.on_signal", run.checkpoint.on_signal);
    t.optional_integer("checkpoint.time_limit", run.checkpoint.time_limit, "auto", 1,
                       seconds_of_node);
    t.integer("log.every", run.log.every, 1);
    t.flag("log.tensorboard", run.log.tensorboard);
    t.choice("log.color", run.log.color, {"auto", "always", "never"});
    t.string("output", run.output);
}

std::size_t edit_distance(const std::string& a, const std::string& b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), 0u);
    for (std::size_t i = 0; i < a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i + 1;
        for (std::size_t j = 0; j < b.size(); ++j) {
            const std::size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, change});
        }
    }
    return row.back();
}

}  // namespace

std::vector<RunKey> run_keys(RunFile& run) {
    Table table;
    add_model_and_adapter(table, run);
    add_data(table, run);
    add_train(table, run);
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

std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& known) {
    std::optional<std::string> best;
    std::size_t distance = std::max<std::size_t>(3, word.size() * 2 / 5);
    const std::string mine = word.substr(word.rfind('.') + 1);
    for (const std::string& candidate : known) {
        const std::string last = candidate.substr(candidate.rfind('.') + 1);
        std::size_t d = edit_distance(word, candidate);
        // A word inside another ("alpha" in "lora_alpha") is nearer than its length says.
        const bool inside =
            std::min(last.size(), mine.size()) >= 3 &&
            (mine.find(last) != std::string::npos || last.find(mine) != std::string::npos);
        if (inside) d = std::min<std::size_t>(d, 2);
        if (d < distance) {
            distance = d;
            best = candidate;
        }
    }
    return best;
}

}  // namespace qshard
