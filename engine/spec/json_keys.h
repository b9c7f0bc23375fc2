#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace qshard {

/// Typed, range-checked access to one JSON object that remembers which keys were asked for, so that
/// the rest can be refused. A key whose value is null counts as absent. UserErrors name the origin
/// and the key.
class JsonKeys {
  public:
    JsonKeys(const boost::json::object& object, std::string origin);

    const boost::json::value* find(std::string_view key);
    std::optional<std::int64_t> integer(std::string_view key, std::int64_t low, std::int64_t high);
    /// A finite number.
    std::optional<double> number(std::string_view key);
    std::optional<bool> boolean(std::string_view key);
    std::optional<std::string> text(std::string_view key);
    const boost::json::object* object(std::string_view key);
    const boost::json::array* array(std::string_view key);
    /// Whether the key is known: was asked for or ignored.
    bool asked(std::string_view key) const { return known_.contains(key); }
    /// Marks keys as known.
    void ignore(std::span<const std::string_view> keys);
    /// UserError that lists the keys which are neither null nor known.
    void refuse_others(std::string_view because) const;

    const std::string& origin() const { return origin_; }
    [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

  private:
    const boost::json::object& object_;
    std::string origin_;
    std::set<std::string, std::less<>> known_;
};

}  // namespace qshard
