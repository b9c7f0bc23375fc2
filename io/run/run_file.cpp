#include "io/run/run_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "io/run/schema.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
    throw UserError(ExitCode::kUsage, fmt::format("{}: {}", where, what));
}

/// Reads one YAML document into the keys it names.
class Reader {
  public:
    Reader(std::string origin, std::vector<RunKey>& keys)
        : origin_(std::move(origin)), keys_(keys) {
        for (const RunKey& key : keys_) paths_.push_back(key.path);
    }

    void read(const YAML::Node& node, const std::string& prefix) {
        for (const auto& pair : node) {
            const std::string name = pair.first.IsScalar() ? pair.first.Scalar() : "";
            const std::string path = prefix.empty() ? name : prefix + "." + name;
            const std::string where = place(pair.first);
            if (const RunKey* key = find(path)) {
                if (std::find(seen_.begin(), seen_.end(), path) != seen_.end()) {
                    refuse(where, fmt::format("key \"{}\" is given twice", path));
                }
                seen_.push_back(path);
                take(*key, pair.second, where);
            } else if (is_section(path)) {
                if (pair.second.IsNull()) continue;
                if (!pair.second.IsMap())
                    refuse(where, fmt::format("\"{}\" is a section: put its keys below it", path));
                read(pair.second, path);
            } else {
                unknown(path, where);
            }
        }
    }

    void take(const std::string& path, const YAML::Node& value, const std::string& where) {
        const RunKey* key = find(path);
        if (key == nullptr) unknown(path, where);
        take(*key, value, where);
    }

  private:
    void take(const RunKey& key, const YAML::Node& value, const std::string& where) {
        try {
            key.read(value);
        } catch (const std::string& expected) {
            std::string found = value.IsScalar() ? value.Scalar() : value.IsNull() ? "nothing" : "";
            if (found.empty()) found = value.IsMap() ? "a mapping" : "a list";
            refuse(where, fmt::format("\"{}\" is {}; expected {}", key.path, found, expected));
        }
    }
    [[noreturn]] void unknown(const std::string& path, const std::string& where) const {
        const auto hint = nearest(path, paths_);
        refuse(where,
               fmt::format("unknown key \"{}\"{}", path,
                           hint ? fmt::format("; did you mean \"{}\"?", *hint) : std::string()));
    }
    const RunKey* find(const std::string& path) const {
        for (const RunKey& key : keys_) {
            if (key.path == path) return &key;
        }
        return nullptr;
    }
    bool is_section(const std::string& path) const {
        for (const RunKey& key : keys_) {
            if (key.path.starts_with(path + ".")) return true;
        }
        return false;
    }
    std::string place(const YAML::Node& node) const {
        return fmt::format("{}:{}", origin_, node.Mark().line + 1);
    }

    std::string origin_;
    std::vector<RunKey>& keys_;
    std::vector<std::string> paths_, seen_;
};

YAML::Node parse(const std::string& text, const std::string& origin) {
    try {
        return YAML::Load(text);
    } catch (const YAML::Exception& error) {
        refuse(fmt::format("{}:{}", origin, error.mark.line + 1),
               fmt::format("not valid YAML: {}", error.msg));
    }
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
    for (const std::string& metric : run.eval.generate_metrics) {
        if (metric != "exact_match" && metric != "masks") {
            refuse(origin,
                   fmt::format("\"eval.generate.metrics\" names {}; expected exact_match or masks",
                               metric));
        }
    }
    parse_layers(run.adapter.layers);
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

std::string RunFile::identity_yaml() const {
    RunFile copy = *this;
    change_paths(copy,
                 [](std::string& path) { path = std::filesystem::path(path).filename().string(); });
    return write_keys(run_keys(copy), true);
}

RunFile load_run_file(const std::filesystem::path& path,
                      const std::vector<std::string>& overrides) {
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
    const YAML::Node root = parse(text, path.string());
    if (!root.IsMap())
        refuse(path.string(), "expected a mapping of keys (model:, data:, train:, ...)");
    Reader reader(path.string(), keys);
    reader.read(root, "");
    for (const std::string& set : overrides) {
        const std::size_t equals = set.find('=');
        if (equals == std::string::npos) refuse("--set " + set, "expected key.path=value");
        reader.take(set.substr(0, equals), parse(set.substr(equals + 1), "--set " + set),
                    "--set " + set);
    }
    check_together(run, path.string());
    const auto folder = std::filesystem::absolute(path).parent_path();
    change_paths(run,
                 [&](std::string& name) { name = (folder / name).lexically_normal().string(); });
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
