#include "io/run/run_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxNodes = 100000;  ///< aliases can make few bytes many nodes
constexpr int kMaxDepth = 32;
constexpr std::size_t kMaxProblems = 60;  ///< that are listed
constexpr std::size_t kMaxShown = 60;     ///< bytes of a value in a message

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
    throw UserError(ExitCode::kUsage, fmt::format("{}: {}", where, what));
}

std::string trimmed(const std::string& text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::string last_part(const std::string& path) {
    return path.substr(path.rfind('.') + 1);
}

/// The section of a path, with its dot.
std::string section_of(const std::string& path) {
    const std::size_t dot = path.rfind('.');
    return dot == std::string::npos ? "" : path.substr(0, dot + 1);
}

/// One document. Refuses a second one, and a tree that aliases make too large to walk.
YAML::Node parse(const std::string& text, const std::string& origin) {
    try {
        const std::vector<YAML::Node> documents = YAML::LoadAll(text);
        if (documents.empty()) return {};
        for (std::size_t i = 1; i < documents.size(); ++i) {
            if (documents[i].IsNull()) continue;
            refuse(fmt::format("{}:{}", origin, documents[i].Mark().line + 1),
                   "a second YAML document begins (after \"---\"); a run file is one");
        }
        std::size_t nodes = 0;
        const std::function<void(const YAML::Node&, int)> walk = [&](const YAML::Node& node,
                                                                     int depth) {
            if (++nodes > kMaxNodes || depth > kMaxDepth)
                refuse(origin, "the file's lists and mappings are too deep, or aliases too many");
            if (node.IsSequence()) {
                for (const YAML::Node& item : node) walk(item, depth + 1);
            } else if (node.IsMap()) {
                for (const auto& pair : node) walk(pair.second, depth + 1);
            }
        };
        walk(documents[0], 0);
        return documents[0];
    } catch (const YAML::Exception& error) {
        refuse(fmt::format("{}:{}", origin, error.mark.line + 1),
               fmt::format("not valid YAML: {}", error.msg));
    }
}

/// A value as messages show it.
std::string shown(const YAML::Node& value) {
    if (value.IsNull()) return "nothing";
    if (value.IsMap()) return "a mapping";
    if (!value.IsScalar()) return "a list";
    std::string text = value.Scalar();
    if (text.empty()) return "empty text";
    if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
    return text;
}

/// A name that stands twice in a mapping inside a value, or "".
std::string doubled_name(const YAML::Node& value) {
    if (value.IsSequence()) {
        for (const YAML::Node& item : value) {
            if (const std::string name = doubled_name(item); !name.empty()) return name;
        }
    }
    if (!value.IsMap()) return "";
    std::set<std::string> names;
    for (const auto& pair : value) {
        if (pair.first.IsScalar() && !names.insert(pair.first.Scalar()).second)
            return pair.first.Scalar();
    }
    return "";
}

/// A path in a value that a shell would have changed, or "".
std::string unexpanded(const YAML::Node& value) {
    if (value.IsSequence()) {
        for (const YAML::Node& item : value) {
            if (const std::string text = unexpanded(item); !text.empty()) return text;
        }
    }
    if (value.IsMap() && value["path"]) return unexpanded(value["path"]);
    if (!value.IsScalar()) return "";
    const std::string& text = value.Scalar();
    const bool changes =
        text.find("${") != std::string::npos || text.starts_with('$') || text.starts_with("~/");
    return changes ? text : "";
}

}  // namespace

RunReader::RunReader(std::string origin, std::vector<RunKey>& keys)
    : origin_(std::move(origin)), keys_(keys) {
    for (const RunKey& key : keys_) {
        for (std::size_t dot = key.path.find('.'); dot != std::string::npos;
             dot = key.path.find('.', dot + 1)) {
            sections_.insert(key.path.substr(0, dot));
        }
    }
}

void RunReader::read(const std::string& text) {
    const YAML::Node root = parse(text, origin_);
    if (!root.IsMap()) refuse(origin_, "expected a mapping of keys (model:, data:, train:, ...)");
    collect_values(root);
    read_section(root, "");
}

void RunReader::set(const std::string& assignment) {
    const std::string where = "--set " + assignment;
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos) {
        refuse(where, "expected key.path=value, without spaces around \"=\"");
    }
    const std::string path = trimmed(assignment.substr(0, equals));
    const YAML::Node value = parse(assignment.substr(equals + 1), where);
    if (value.IsScalar()) values_[folded_word(last_part(path))] = value.Scalar();
    if (RunKey* key = find(path)) {
        take(*key, value, where, true);
    } else if (is_section(path)) {
        problem(where, fmt::format("\"{}\" is a section: set its keys, {}.KEY=value", path, path));
    } else {
        unknown(path, value, where);
    }
}

void RunReader::finish() const {
    if (problems_.empty()) return;
    std::string text;
    for (std::size_t i = 0; i < std::min(problems_.size(), kMaxProblems); ++i)
        text += (i == 0 ? "" : "\n        ") + problems_[i];
    if (problems_.size() > kMaxProblems)
        text += fmt::format("\n        ... and {} more", problems_.size() - kMaxProblems);
    throw UserError(ExitCode::kUsage, text);
}

void RunReader::read_section(const YAML::Node& node, const std::string& prefix) {
    for (const auto& pair : node) {
        const std::string path = prefix + (pair.first.IsScalar() ? pair.first.Scalar() : "");
        const std::string where = place(pair.first);
        if (!seen_.insert(path).second) {
            problem(where, fmt::format("key \"{}\" is given twice", path));
        } else if (RunKey* key = find(path)) {
            take(*key, pair.second, where, false);
        } else if (!is_section(path)) {
            unknown(path, pair.second, where);
        } else if (pair.second.IsMap()) {
            read_section(pair.second, path + ".");
        } else if (!pair.second.IsNull()) {
            const bool has_type = find(path + ".type") != nullptr && pair.second.IsScalar();
            const auto said =
                has_type ? foreign_value(path + ".type", pair.second.Scalar()) : std::nullopt;
            problem(where,
                    fmt::format("\"{}\" is a section: put its keys below it{}{}", path,
                                has_type ? fmt::format("; the word is for \"{}.type\"", path) : "",
                                said ? " (" + *said + ")" : ""));
        }
    }
}

void RunReader::take(RunKey& key, const YAML::Node& value, const std::string& where,
                     bool is_override) {
    given_.insert(key.path);
    if (const std::string name = doubled_name(value); !name.empty())
        return problem(where, fmt::format("\"{}\" has \"{}\" twice", key.path, name));
    if (const std::string text = key.is_path ? unexpanded(value) : ""; !text.empty()) {
        return problem(where,
                       fmt::format("\"{}\" is {}; variables and ~ are not expanded. Write the path "
                                   "itself, or let the shell do it: --set \"{}=...\"",
                                   key.path, text, key.path));
    }
    try {
        key.read(value);
    } catch (const std::string& expected) {
        std::string text =
            fmt::format("\"{}\" is {}; expected {}", key.path, shown(value), expected);
        const std::string word = value.IsScalar() ? value.Scalar() : value.IsNull() ? "null" : "";
        const auto said = foreign_value(key.path, word);
        if (said && expected.find("not supported yet") == std::string::npos) {
            text += fmt::format(" ({})", *said);
        } else if (value.IsScalar()) {
            text += did_you_mean(word, key.choices);
        }
        if (is_override && (value.IsMap() || value.IsSequence()) &&
            key.values.starts_with("text")) {
            text += fmt::format(
                ". Text with \": \" or brackets needs quotes of its own: --set "
                "'{}=\"...\"'",
                key.path);
        }
        problem(where, text);
    }
}

void RunReader::unknown(const std::string& path, const YAML::Node& value,
                        const std::string& where) {
    const std::string meant = answer(path);
    problem(where, fmt::format("unknown key \"{}\"; {}", path,
                               meant.empty() ? "qshard train --keys lists all" : meant));
    const bool other_section = meant.empty() || meant.ends_with("It is a section.");
    if (!value.IsMap() || !other_section) return;
    for (const auto& pair : value) {
        const std::string below = path + "." + (pair.first.IsScalar() ? pair.first.Scalar() : "");
        if (!answer(below).empty()) unknown(below, pair.second, place(pair.first));
    }
}

/// What an unknown key was meant to be: another program's word, a key of another section, or a
/// misspelling, first of the same section.
std::string RunReader::answer(const std::string& path) const {
    const std::string name = last_part(path);
    if (find(path) != nullptr) return fmt::format("did you mean \"{}\"?", path);
    if (const auto foreign = foreign_key(name, values_)) return *foreign;
    if (std::string elsewhere = keys_named(name); !elsewhere.empty()) return elsewhere;
    std::vector<std::string> beside, all(sections_.begin(), sections_.end());
    for (const RunKey& key : keys_) {
        if (section_of(key.path) == section_of(path)) beside.push_back(last_part(key.path));
        all.push_back(last_part(key.path));
    }
    if (const auto near = nearest(name, beside))
        return fmt::format("did you mean \"{}\"?", section_of(path) + *near);
    const auto near = nearest(name, all);
    if (!near) return "";
    if (is_section(*near)) return fmt::format("did you mean \"{}\"?", *near);
    return keys_named(*near);
}

/// "did you mean \"eval.every\" or \"log.every\"?" of the keys whose last part is `name`, or "".
std::string RunReader::keys_named(const std::string& name) const {
    std::vector<std::string> found;
    std::string said;
    for (const RunKey& key : keys_) {
        if (folded_word(last_part(key.path)) != folded_word(name)) continue;
        found.push_back("\"" + key.path + "\"");
        if (const auto value = values_.find(folded_word(name)); value != values_.end()) {
            if (const auto here = foreign_value(key.path, value->second)) said = *here;
        }
    }
    if (found.empty()) return "";
    return fmt::format("did you mean {}?{}", fmt::join(found, " or "),
                       said.empty() ? "" : " (" + said + ")");
}

void RunReader::collect_values(const YAML::Node& node) {
    for (const auto& pair : node) {
        if (!pair.first.IsScalar()) continue;
        if (pair.second.IsScalar())
            values_[folded_word(pair.first.Scalar())] = pair.second.Scalar();
        if (pair.second.IsMap()) collect_values(pair.second);
    }
}

void RunReader::problem(const std::string& where, const std::string& what) {
    problems_.push_back(where + ": " + what);
}

RunKey* RunReader::find(const std::string& path) const {
    const auto found = std::ranges::find(keys_, path, &RunKey::path);
    return found == keys_.end() ? nullptr : &*found;
}

bool RunReader::is_section(const std::string& path) const {
    return sections_.contains(path);
}

std::string RunReader::place(const YAML::Node& node) const {
    return fmt::format("{}:{}", origin_, node.Mark().line + 1);
}

}  // namespace qshard
