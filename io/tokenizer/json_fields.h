#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace qshard::tok {

/// Parses a document of at most `max_bytes` bytes, 32 levels deep, without duplicate keys;
/// UserError names `origin`. The value owns its memory.
boost::json::value parse_json(std::string_view text, const std::string& origin,
                              std::size_t max_bytes);

/// A value inside a document, with the path that error messages name it by.
class JsonField {
  public:
    JsonField(const boost::json::value& value, std::string path)
        : value_(&value), path_(std::move(path)) {}

    bool is_null() const { return value_->is_null(); }
    const boost::json::value& value() const { return *value_; }
    const std::string& path() const { return path_; }
    const boost::json::object& object() const;
    const boost::json::array& array() const;
    std::string string() const;
    std::int64_t integer() const;
    double number() const;
    bool boolean() const;

    /// The member `key`; null if absent.
    JsonField operator[](std::string_view key) const;
    JsonField operator[](std::size_t index) const;
    bool boolean_or(std::string_view key, bool otherwise) const;
    std::string string_or(std::string_view key, const std::string& otherwise) const;

    /// Throws UserError "PATH: MESSAGE".
    [[noreturn]] void fail(const std::string& message) const;

  private:
    const boost::json::value* value_;
    std::string path_;
};

/// Appends the value as JSON with sorted keys and no spaces: equal values give equal text.
void append_canonical(std::string& out, const boost::json::value& value);

}  // namespace qshard::tok
