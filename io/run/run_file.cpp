#include "io/run/run_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "io/run/run_reader.h"
#include "io/run/schema.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
    throw UserError(ExitCode::kUsage, fmt::format("{}: {}", where, what));
}

/// Calls change(path) for every path of the run that is set.
template <class Change>
void change_paths(RunFile& run, Change change) {
    change(run.model.base);
    if (run.model.tokenizer) change(*run.model.tokenizer);
    if (run.adapter.init_from) change(*run.adapter.init_from);
    for (DataFile& file : run.data.train) change(file.path);
    if (run.data.validation_file) change(*run.data.validation_file);
    if (run.data.test) change(*run.data.test);
    change(run.output);
}

/// Refuses what would be without effect: the user expects one.
void check_effects(const RunFile& run, const std::string& origin) {
    const RunFile defaults;
    const auto useless = [&](bool is, const std::string& what) {
        if (is) refuse(origin, what);
    };
    const bool validates = run.data.validation_file || run.data.validation_fraction.value_or(0) > 0;
    useless(run.eval.early_stop && (!validates || run.eval.every == 0),
            fmt::format("\"eval.early_stop\" is {}, but nothing is evaluated: set data.validation "
                        "and eval.every",
                        run.eval.early_stop.value_or(0)));
    useless(run.eval.generate_split == "test" && !run.data.test,
            "\"eval.generate.split\" is test, but \"data.test\" is missing");
    useless(run.train.betas != defaults.train.betas && run.train.optimizer != "adamw",
            fmt::format("\"train.betas\" are of adamw, and train.optimizer is {}",
                        run.train.optimizer));
    const bool warms = run.train.warmup_steps.value_or(0) > 0 ||
                       (!run.train.warmup_steps && run.train.warmup_ratio > 0 &&
                        run.train.warmup_ratio != defaults.train.warmup_ratio);
    useless(warms && run.train.lr_scheduler_type == "constant",
            "\"train.lr_scheduler_type\" constant knows no warm-up, and one is given. Try "
            "constant_with_warmup.");
    const bool fills =
        run.data.format == "template" || (run.data.format == "auto" && run.data.prompt_template);
    useless(run.data.prompt_template && !fills,
            fmt::format("\"data.template\" is given, and data.format is {}. Try template.",
                        run.data.format));
    useless(run.data.completion_column != defaults.data.completion_column && !fills,
            fmt::format("\"data.completion_column\" is {}, but only data.format template reads it: "
                        "set data.template too",
                        run.data.completion_column));
    useless(run.adapter.init_from && run.adapter.init_lora_weights != "true",
            fmt::format("\"adapter.init_lora_weights\" is {}, but the values come from "
                        "adapter.init_from. Leave out one of them.",
                        run.adapter.init_lora_weights));
    const bool never_gpu = run.placement.backend == "cpu" || run.placement.backend == "reference";
    useless(never_gpu && run.placement.ranks_per_gpu > 1,
            fmt::format("\"placement.ranks_per_gpu\" is {}, and placement.backend is {}",
                        run.placement.ranks_per_gpu, run.placement.backend));
    const bool never_cpu = run.placement.backend == "cuda" || run.placement.backend == "reference";
    useless(never_cpu && run.placement.cpu_isa != "auto",
            fmt::format("\"placement.cpu_isa\" is {}, and placement.backend is {}",
                        run.placement.cpu_isa, run.placement.backend));
}

void check_together(const RunFile& run, const std::string& origin) {
    if (run.model.base.empty()) refuse(origin, "\"model.base\" is missing: the model to fine-tune");
    if (run.data.train.empty())
        refuse(origin, "\"data.train\" is missing: the file with the training rows");
    if (run.output.empty()) refuse(origin, "\"output\" is missing: the folder for the results");
    if (run.train.global_batch_size % run.train.micro_batch_size != 0) {
        refuse(
            origin,
            fmt::format(
                "\"train.global_batch_size\" is {}; expected a multiple of train.micro_batch_size "
                "({}). Try {}.",
                run.train.global_batch_size, run.train.micro_batch_size,
                (run.train.global_batch_size / run.train.micro_batch_size + 1) *
                    run.train.micro_batch_size));
    }
    if (run.data.format == "template" && !run.data.prompt_template) {
        refuse(origin, "\"data.template\" is missing: data.format is template");
    }
    parse_layers(run.adapter.layers);
    check_effects(run, origin);
}

using Units = std::vector<std::pair<std::string, double>>;

/// "1.5 GiB": a positive number times the factor of its unit.
std::optional<double> quantity(const std::string& text, const Units& units) {
    std::size_t end = 0;
    double value = 0;
    try {
        value = std::stod(text, &end);
    } catch (const std::exception&) {
        return std::nullopt;
    }
    std::string unit = text.substr(end);
    std::erase(unit, ' ');
    for (const auto& [name, factor] : units) {
        if (unit == name && std::isfinite(value) && value > 0) return value * factor;
    }
    return std::nullopt;
}

}  // namespace

std::string RunFile::to_yaml() const {
    RunFile copy = *this;
    return write_keys(run_keys(copy), false);
}

std::string RunFile::to_yaml_inside() const {
    RunFile copy = *this;
    copy.output = ".";
    return copy.to_yaml();
}

std::string RunFile::identity_yaml() const {
    RunFile copy = *this;
    change_paths(copy,
                 [](std::string& path) { path = std::filesystem::path(path).filename().string(); });
    return write_keys(run_keys(copy), true);
}

RunFile load_run_file(const std::filesystem::path& path,
                      const std::vector<std::string>& overrides) {
    if (std::filesystem::is_directory(path)) {
        const bool inside = std::filesystem::exists(path / "run.yaml");
        refuse(path.string(),
               fmt::format("this is a folder; expected a run file{}",
                           inside ? ". Try " + (path / "run.yaml").string() : std::string()));
    }
    if (!std::filesystem::exists(path)) refuse(path.string(), "no such run file");
    std::ifstream file(path, std::ios::binary);
    std::ostringstream content;
    content << file.rdbuf();
    if (!file || content.str().size() > kMaxFileBytes) {
        refuse(path.string(), "cannot read the run file; expected a YAML file of at most 1 MiB");
    }
    return parse_run_file(content.str(), path, overrides);
}

RunFile parse_run_file(const std::string& text, const std::filesystem::path& path,
                       const std::vector<std::string>& overrides) {
    RunFile run;
    std::vector<RunKey> keys = run_keys(run);
    RunReader reader(path.string(), keys);
    reader.read(text);
    for (const std::string& set : overrides) reader.set(set);
    reader.finish();
    run.given = reader.given();
    check_together(run, path.string());
    const auto folder = std::filesystem::absolute(path).parent_path();
    change_paths(run, [&](std::string& name) {
        const auto whole = (folder / name).lexically_normal();
        name = (whole.has_filename() ? whole : whole.parent_path()).string();  // "out/", "."
    });
    return run;
}

std::int64_t parse_bytes(const std::string& text) {
    static const Units units = {{"", 1},         {"B", 1},        {"KiB", 0x1p10}, {"MiB", 0x1p20},
                                {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"KB", 1e3},     {"MB", 1e6},
                                {"GB", 1e9},     {"TB", 1e12},    {"K", 0x1p10},   {"M", 0x1p20},
                                {"G", 0x1p30}};
    if (const auto bytes = quantity(text, units); bytes && *bytes < 0x1p62)
        return static_cast<std::int64_t>(*bytes);
    throw UserError(ExitCode::kUsage,
                    fmt::format("\"{}\" is no number of bytes; expected 24GiB, 512MiB, ...", text));
}

double parse_bandwidth(const std::string& text) {
    static const Units units = {{"Mb/s", 1e6 / 8},   {"Gb/s", 1e9 / 8}, {"Mbit/s", 1e6 / 8},
                                {"Gbit/s", 1e9 / 8}, {"MB/s", 1e6},     {"GB/s", 1e9},
                                {"MiB/s", 0x1p20},   {"GiB/s", 0x1p30}};
    if (const auto bytes = quantity(text, units)) return *bytes;
    throw UserError(
        ExitCode::kUsage,
        fmt::format("\"{}\" is no bandwidth; expected 10Gb/s (bits), 1.2GB/s (bytes), ...", text));
}

std::vector<std::int64_t> parse_layers(const std::vector<std::string>& ranges) {
    std::vector<std::int64_t> layers;
    if (ranges.size() == 1 && ranges[0] == "all") return layers;
    for (const std::string& range : ranges) {
        const std::size_t dash = range.find('-');
        const std::string first = range.substr(0, dash),
                          last = dash == std::string::npos ? first : range.substr(dash + 1);
        auto number = [&](const std::string& digits) {
            if (digits.empty() || digits.size() > 6 ||
                digits.find_first_not_of("0123456789") != std::string::npos) {
                throw UserError(
                    ExitCode::kUsage,
                    fmt::format(
                        "\"adapter.layers\" has \"{}\"; expected all, or layers and ranges such as "
                        "[0-11, 20]",
                        range));
            }
            return std::stoll(digits);
        };
        for (std::int64_t l = number(first); l <= number(last); ++l) layers.push_back(l);
    }
    return layers;
}

}  // namespace qshard
