#pragma once

#include <yaml-cpp/yaml.h>

#include <set>
#include <string>
#include <vector>

#include "io/run/foreign_words.h"
#include "io/run/schema.h"

namespace qshard {

/// Reads a run file and overrides into the keys they name, and collects all that is wrong, so that
/// a file of another program is answered in one go.
class RunReader {
  public:
    /// `origin` names the file in messages; `keys` must outlive the reader.
    RunReader(std::string origin, std::vector<RunKey>& keys);

    /// A file's text. UserError if it is no YAML mapping.
    void read(const std::string& text);
    /// "key.path=value", which wins over the file.
    void set(const std::string& assignment);
    /// UserError(kUsage) that lists what is wrong with file, line and key, if anything is.
    void finish() const;
    /// What a word that is no key was meant to be: "did you mean \"adapter.r\"?", or why there is
    /// no such key; "" if nothing is near.
    std::string answer(const std::string& path) const;
    /// Paths of the keys that were read.
    const std::set<std::string>& given() const { return given_; }

  private:
    void read_section(const YAML::Node& node, const std::string& prefix);
    void take(RunKey& key, const YAML::Node& value, const std::string& where, bool is_override);
    void unknown(const std::string& path, const YAML::Node& value, const std::string& where);
    std::string keys_named(const std::string& name) const;
    void collect_values(const YAML::Node& node);
    void problem(const std::string& where, const std::string& what);
    RunKey* find(const std::string& path) const;
    bool is_section(const std::string& path) const;
    std::string place(const YAML::Node& node) const;

    std::string origin_;
    std::vector<RunKey>& keys_;
    std::set<std::string> sections_, seen_, given_;
    KeyValues values_;  ///< of all scalars in the file, known or not
    std::vector<std::string> problems_;
};

}  // namespace qshard
