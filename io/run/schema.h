#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// The one table of run-file keys: each is described once and read, checked and written through it.
namespace qshard {

struct RunFile;

/// One key: how to take its value from a YAML node, and how to write it.
struct RunKey {
    std::string path;                             ///< "train.seed"
    bool identity = false;                        ///< decides the adapter's bits
    std::function<void(const YAML::Node&)> read;  ///< throws std::string: what was expected
    std::function<YAML::Node()> write;
};

/// Keys bound to the members of `run`.
std::vector<RunKey> run_keys(RunFile& run);

/// A copy of `run` whose values are written in the order of the table; `identity_only` leaves the
/// other keys out.
std::string write_keys(const std::vector<RunKey>& keys, bool identity_only);

/// The known word nearest to `word` by edit distance, if it is near enough to be meant.
std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace qshard
