#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/run/schema.h"

/// Building the table of keys, kind by kind: what a value may be, how it is read, written and told.
namespace qshard {

/// Thrown by a reader as std::string; the caller adds file, line and key.
[[noreturn]] void expected(const std::string& what);

bool is_null(const YAML::Node& node);
/// Not empty.
std::string text_of(const YAML::Node& node);
/// A text alone is a list of one.
std::vector<std::string> text_list_of(const YAML::Node& node);
bool flag_of(const YAML::Node& node);
double real_of(const YAML::Node& node, double low, double high);
std::int64_t whole_of(const YAML::Node& node, std::int64_t low, std::int64_t high);
/// "24GiB" to bytes; "1:30:00", "2-00:00:00" (days first) or seconds to seconds.
std::int64_t bytes_of(const YAML::Node& node);
std::int64_t seconds_of(const YAML::Node& node);
/// YYYY-MM-DD, of a day that there is.
bool is_date(const std::string& word);

/// Each method adds one key bound to one member.
class KeyTable {
  public:
    std::vector<RunKey> keys;

    /// Of the key added last: it decides the adapter's bits.
    KeyTable& identity() {
        keys.back().identity = true;
        return *this;
    }
    /// The same, and a run keeps it from its start to its end (RunKey::fixed, RunKey::shown_by).
    KeyTable& fixed(const char* shown_by = "") {
        keys.back().fixed = true;
        keys.back().shown_by = shown_by;
        return identity();
    }
    /// Of the key added last: it names a file or folder.
    KeyTable& path() {
        keys.back().is_path = true;
        return *this;
    }
    /// Of the key added last: what it means, in a sentence or two.
    KeyTable& help(std::string text) {
        keys.back().help = std::move(text);
        return *this;
    }
    KeyTable& add(std::string path, std::string values, std::function<void(const YAML::Node&)> read,
                  std::function<YAML::Node()> write);
    KeyTable& flag(std::string path, bool& member);
    KeyTable& string(std::string path, std::string& member);
    KeyTable& optional_string(std::string path, std::optional<std::string>& member);
    /// One of `known`; those of `later` are words of a later version.
    KeyTable& choice(std::string path, std::string& member, const std::vector<std::string>& known,
                     const std::vector<std::string>& later = {});
    KeyTable& number(std::string path, double& member, double low, double high);
    template <class Integer>
    KeyTable& integer(std::string path, Integer& member, std::int64_t low,
                      std::int64_t high = INT64_MAX) {
        return add(
            std::move(path), whole_text(low, high),
            [&member, low, high](const YAML::Node& n) {
                member = static_cast<Integer>(whole_of(n, low, high));
            },
            [&member] { return YAML::Node(member); });
    }
    /// A whole number, or `word` for absent ("auto", or "" for null). `parse` reads other units,
    /// which `unit` names.
    KeyTable& optional_integer(std::string path, std::optional<std::int64_t>& member,
                               const std::string& word, std::int64_t low,
                               std::int64_t (*parse)(const YAML::Node&) = nullptr,
                               const char* unit = nullptr);
    KeyTable& strings(std::string path, std::vector<std::string>& member);
    /// One or several of `known`.
    KeyTable& words(std::string path, std::vector<std::string>& member,
                    const std::vector<std::string>& known);

    /// "a whole number from 1 to 64"
    static std::string whole_text(std::int64_t low, std::int64_t high);
};

}  // namespace qshard
