#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The keys of rows and messages that this program or other tools give a meaning, in one table.
namespace qshard {

enum class KeyUse {
    kHonoured,  ///< read where the format has a use for it, else named among what nothing reads
    kBinding,   ///< the same, but a row that has it where the format has no use for it is refused
    kRefused,   ///< a row that has it is refused
};

struct KnownKey {
    std::string_view name;
    KeyUse use;
    std::string_view meaning;  ///< what it does; of a refused one why, and what to do instead
};

/// Columns of rows. What is not listed means nothing to anybody but data.template.
std::span<const KnownKey> known_columns();
/// Members of messages and of ShareGPT's turns. What is not listed reaches the chat template.
std::span<const KnownKey> known_message_keys();
/// Null if the key is not listed.
const KnownKey* find_key(std::span<const KnownKey> keys, std::string_view name);

/// Null, "", [] and {}: as Arrow and CSV files write a column that a row does not have.
bool is_empty(const boost::json::value& value);

/// What a user should know of rows that are kept, and in how many of them it was found.
struct RowNotes {
    std::map<std::string, std::int64_t> unread;   ///< columns and "messages.KEY" nothing reads
    std::map<std::string, std::int64_t> remarks;  ///< sentences, complete
    void add(const RowNotes& other);
    /// For the screen at the start: "columns that nothing reads: id, source (2,000 rows)", then a
    /// line for each remark, "...: 12 rows".
    std::vector<std::string> lines() const;
};

}  // namespace qshard
