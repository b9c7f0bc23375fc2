#include "io/run/run_changes.h"

#include <filesystem>

#include "base/error.h"
#include "io/run/schema.h"

namespace qshard {
namespace {

YAML::Node at_path(const YAML::Node& root, const std::string& path) {
    YAML::Node node;
    node.reset(root);
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t dot = std::min(path.find('.', begin), path.size());
        if (!node.IsMap()) return YAML::Node(YAML::NodeType::Undefined);
        const YAML::Node& map = node;
        node.reset(map[path.substr(begin, dot - begin)]);
        if (!node.IsDefined()) return YAML::Node(YAML::NodeType::Undefined);
        begin = dot + 1;
    }
    return node;
}

/// Paths of the keys in `node`: of those that the table has, and of whatever else is no section.
void list_keys(const YAML::Node& node, const std::string& prefix, const std::vector<RunKey>& keys,
               std::vector<std::string>& found) {
    for (const auto& pair : node) {
        if (!pair.first.IsScalar()) continue;
        const std::string path = prefix + pair.first.Scalar();
        bool section = false;
        for (const RunKey& key : keys) section |= key.path.starts_with(path + ".");
        if (section && pair.second.IsMap()) {
            list_keys(pair.second, path + ".", keys, found);
        } else {
            found.push_back(path);
        }
    }
}

std::string one_line(const RunKey& key) {
    YAML::Emitter out;
    out << YAML::Flow << key.write();
    return out.c_str();
}

std::string file_name(const std::string& path) {
    return std::filesystem::path(path).filename().string();
}

/// Leaves out what a mere move changes, and what decides nothing.
void forget_places(RunFile& run) {
    run.model.base.clear();
    run.model.tokenizer.reset();
    for (DataFile& file : run.data.train) file.path.clear();
    if (run.data.validation_file) run.data.validation_file = file_name(*run.data.validation_file);
    if (run.data.test) run.data.test = file_name(*run.data.test);
    if (run.adapter.init_from) run.adapter.init_from = file_name(*run.adapter.init_from);
    run.output.clear();
    const bool four_bit = run.model.quantization == "nf4" || run.model.quantization == "fp4";
    run.model.double_quant = run.model.double_quant && four_bit;
}

}  // namespace

RecordedRun parse_recorded_run(const std::string& text) {
    YAML::Node root;
    try {
        root = YAML::Load(text);
    } catch (const YAML::Exception& error) {
        throw UserError(fmt::format("the run file in it is not valid YAML: {}", error.msg));
    }
    if (!root.IsMap()) throw UserError("the run file in it is no mapping of keys");
    RecordedRun recorded;
    const std::vector<RunKey> keys = run_keys(recorded.run);
    std::vector<std::string> there;
    list_keys(root, "", keys, there);
    for (const std::string& path : there) {
        const auto key = std::find_if(keys.begin(), keys.end(),
                                      [&](const RunKey& known) { return known.path == path; });
        try {
            if (key == keys.end()) throw std::string("a key of this version");
            key->read(at_path(root, path));
        } catch (const std::string&) {
            recorded.unknown.push_back(path);
        }
    }
    return recorded;
}

std::vector<ChangedKey> changed_keys(const RunFile& there, const RunFile& here) {
    RunFile a = there, b = here;
    forget_places(a);
    forget_places(b);
    const std::vector<RunKey> theirs = run_keys(a), mine = run_keys(b);
    std::vector<ChangedKey> changed;
    for (std::size_t i = 0; i < mine.size(); ++i) {
        ChangedKey key{mine[i].path, one_line(theirs[i]), one_line(mine[i]), mine[i].fixed,
                       mine[i].shown_by};
        if (key.there != key.here) changed.push_back(std::move(key));
    }
    return changed;
}

}  // namespace qshard
