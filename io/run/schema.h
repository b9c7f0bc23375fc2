#pragma once

#include <yaml-cpp/yaml.h>

#include <functional>
#include <string>
#include <vector>

/// The one table of run-file keys: each is described once and read, checked, written and explained
/// through it.
namespace qshard {

struct RunFile;

/// One key: how to take its value from a YAML node, and how to write it.
struct RunKey {
    std::string path;                             ///< "train.seed"
    std::string help;                             ///< what it means
    std::string values;                           ///< "a whole number of at least 0"
    std::vector<std::string> choices;             ///< the words it takes, if it takes words
    bool identity = false;                        ///< decides the adapter's bits
    bool is_path = false;                         ///< names a file or folder
    std::function<void(const YAML::Node&)> read;  ///< throws std::string: what was expected
    std::function<YAML::Node()> write;
    /// Another value makes another run, which a checkpoint refuses...
    bool fixed = false;
    /// ...but only if what a checkpoint records under this name differs, too: a data key that
    /// leaves the rows as they are changes nothing. Empty: the value alone decides.
    const char* shown_by = "";
};

/// Keys bound to the members of `run`.
std::vector<RunKey> run_keys(RunFile& run);

/// A copy of `run` whose values are written in the order of the table; `identity_only` leaves the
/// other keys out.
std::string write_keys(const std::vector<RunKey>& keys, bool identity_only);

}  // namespace qshard
