#include "io/run/key_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "io/run/run_file.h"

namespace qshard {
namespace {

template <class T>
T scalar(const YAML::Node& node, const char* what) {
    T value{};
    if (!node.IsScalar() || !YAML::convert<T>::decode(node, value)) expected(what);
    return value;
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

/// Digits as people count: neither octal (010), hexadecimal nor 1_000, which YAML's readers
/// disagree about.
bool is_decimal(const std::string& text) {
    const std::string digits = text.substr(text.starts_with('-') ? 1 : 0);
    return !digits.empty() && digits.find_first_not_of("0123456789") == std::string::npos &&
           (digits.size() == 1 || digits[0] != '0');
}

}  // namespace

void expected(const std::string& what) {
    throw what;
}

bool is_null(const YAML::Node& node) {
    return !node.IsDefined() || node.IsNull();
}

std::string text_of(const YAML::Node& node) {
    const auto value = scalar<std::string>(node, "text");
    if (value.empty()) expected("text that is not empty");
    return value;
}

std::vector<std::string> text_list_of(const YAML::Node& node) {
    if (node.IsScalar()) return {text_of(node)};
    if (!node.IsSequence() || node.size() == 0) expected("a word or a list of words");
    std::vector<std::string> list;
    for (const YAML::Node& item : node) list.push_back(text_of(item));
    return list;
}

bool flag_of(const YAML::Node& node) {
    return scalar<bool>(node, "true or false");
}

double real_of(const YAML::Node& node, double low, double high) {
    const auto value = scalar<double>(node, "a number");
    if (!std::isfinite(value) || value < low || value > high)
        expected(fmt::format("a number from {} to {}", low, high));
    return value;
}

std::int64_t whole_of(const YAML::Node& node, std::int64_t low, std::int64_t high) {
    double real = 0;
    if (node.IsScalar() && !is_decimal(node.Scalar()) &&
        YAML::convert<double>::decode(node, real) && std::trunc(real) == real &&
        std::fabs(real) < 1e15) {
        expected(fmt::format("a whole number in digits alone: {}", real));
    }
    if (node.IsScalar() && !is_decimal(node.Scalar())) expected("a whole number");
    const auto value = scalar<std::int64_t>(node, "a whole number");
    if (value < low || value > high) expected(KeyTable::whole_text(low, high));
    return value;
}

std::int64_t bytes_of(const YAML::Node& node) {
    try {
        return parse_bytes(text_of(node));
    } catch (const Error& error) {
        expected("auto, or bytes such as 24GiB");
    }
}

std::int64_t seconds_of(const YAML::Node& node) {
    constexpr const char* kExpected = "auto, seconds, or [days-]hours:minutes:seconds";
    std::string value = text_of(node);
    std::int64_t days = 0;
    if (const std::size_t dash = value.find('-'); dash != std::string::npos) {
        const std::string count = value.substr(0, dash);
        if (!is_decimal(count) || count.size() > 4) expected(kExpected);
        days = std::stoll(count);
        value = value.substr(dash + 1);
    }
    std::int64_t seconds = 0, part = 0;
    bool digit = false;
    for (const char c : value + ":") {
        if (c >= '0' && c <= '9' && part < 1000000) {
            part = part * 10 + (c - '0');
            digit = true;
        } else if (c == ':' && digit) {
            seconds = seconds * 60 + part;
            part = 0;
            digit = false;
        } else {
            expected(kExpected);
        }
    }
    seconds += days * 24 * 3600;
    if (seconds < 1) expected(kExpected);
    return seconds;
}

bool is_date(const std::string& word) {
    if (word.size() != 10 || word[4] != '-' || word[7] != '-') return false;
    int parts[3] = {};
    for (std::size_t i = 0, part = 0; i < word.size(); ++i) {
        if (i == 4 || i == 7) {
            ++part;
        } else if (word[i] < '0' || word[i] > '9') {
            return false;
        } else {
            parts[part] = parts[part] * 10 + (word[i] - '0');
        }
    }
    return std::chrono::year_month_day(std::chrono::year(parts[0]),
                                       std::chrono::month(static_cast<unsigned>(parts[1])),
                                       std::chrono::day(static_cast<unsigned>(parts[2])))
        .ok();
}

KeyTable& KeyTable::add(std::string path, std::string values,
                        std::function<void(const YAML::Node&)> read,
                        std::function<YAML::Node()> write) {
    RunKey key;
    key.path = std::move(path);
    key.values = std::move(values);
    key.read = std::move(read);
    key.write = std::move(write);
    keys.push_back(std::move(key));
    return *this;
}

KeyTable& KeyTable::flag(std::string path, bool& member) {
    return add(
        std::move(path), "true or false", [&member](const YAML::Node& n) { member = flag_of(n); },
        [&member] { return YAML::Node(member); });
}

KeyTable& KeyTable::string(std::string path, std::string& member) {
    return add(
        std::move(path), "text", [&member](const YAML::Node& n) { member = text_of(n); },
        [&member] { return YAML::Node(member); });
}

KeyTable& KeyTable::optional_string(std::string path, std::optional<std::string>& member) {
    return add(
        std::move(path), "text or null",
        [&member](const YAML::Node& n) {
            member = is_null(n) ? std::nullopt : std::optional<std::string>(text_of(n));
        },
        [&member] { return member ? YAML::Node(*member) : YAML::Node(YAML::NodeType::Null); });
}

KeyTable& KeyTable::choice(std::string path, std::string& member,
                           const std::vector<std::string>& known,
                           const std::vector<std::string>& later) {
    add(
        std::move(path), fmt::format("{}", fmt::join(known, " | ")),
        [&member, known, later](const YAML::Node& n) {
            auto value = text_of(n);
            bool flag = false;  // True, yes, on
            if (contains(known, "true") && YAML::convert<bool>::decode(n, flag))
                value = flag ? "true" : "false";
            if (contains(later, value)) {
                expected(
                    fmt::format("{} (\"{}\" is not supported yet)", fmt::join(known, ", "), value));
            }
            if (!contains(known, value))
                expected(fmt::format("one of: {}", fmt::join(known, ", ")));
            member = value;
        },
        [&member] { return YAML::Node(member); });
    keys.back().choices = known;
    return *this;
}

KeyTable& KeyTable::number(std::string path, double& member, double low, double high) {
    return add(
        std::move(path), fmt::format("a number from {} to {}", low, high),
        [&member, low, high](const YAML::Node& n) { member = real_of(n, low, high); },
        [&member] { return YAML::Node(fmt::format("{}", member)); });
}

KeyTable& KeyTable::optional_integer(std::string path, std::optional<std::int64_t>& member,
                                     const std::string& word, std::int64_t low,
                                     std::int64_t (*parse)(const YAML::Node&), const char* unit) {
    return add(
        std::move(path),
        fmt::format("{} or {}", unit != nullptr ? unit : whole_text(low, INT64_MAX),
                    word.empty() ? "null" : word),
        [=, &member](const YAML::Node& n) {
            if (is_null(n) || (n.IsScalar() && n.Scalar() == word)) {
                member.reset();
            } else {
                member = parse != nullptr ? parse(n) : whole_of(n, low, INT64_MAX);
            }
        },
        [=, &member] {
            if (member) return YAML::Node(*member);
            return word.empty() ? YAML::Node(YAML::NodeType::Null) : YAML::Node(word);
        });
}

KeyTable& KeyTable::strings(std::string path, std::vector<std::string>& member) {
    return add(
        std::move(path), "a word or a list of words",
        [&member](const YAML::Node& n) { member = text_list_of(n); },
        [&member] { return member.size() == 1 ? YAML::Node(member[0]) : YAML::Node(member); });
}

KeyTable& KeyTable::words(std::string path, std::vector<std::string>& member,
                          const std::vector<std::string>& known) {
    strings(std::move(path), member);
    RunKey& key = keys.back();
    key.choices = known;
    key.values = fmt::format("one of, or a list of: {}", fmt::join(known, ", "));
    key.read = [&member, known, values = key.values](const YAML::Node& n) {
        const std::vector<std::string> list = text_list_of(n);
        for (const std::string& word : list) {
            if (!contains(known, word)) expected(fmt::format("{}; not {}", values, word));
        }
        member = list;
    };
    return *this;
}

std::string KeyTable::whole_text(std::int64_t low, std::int64_t high) {
    return high == INT64_MAX ? fmt::format("a whole number of at least {}", low)
                             : fmt::format("a whole number from {} to {}", low, high);
}

}  // namespace qshard
