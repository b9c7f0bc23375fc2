#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

/// What the words of transformers, PEFT, TRL, Axolotl, LLaMA-Factory, Unsloth, DeepSpeed and
/// bitsandbytes are here. They are not taken as keys: the message names the key that is.
namespace qshard {

/// Scalars of the file that is read, by the last part of their key.
using KeyValues = std::map<std::string, std::string>;

/// The end of a message about the key `name` (its last part, in any case, with '-' or '_'):
/// "did you mean \"adapter.r\"?", or why there is no such key. `values` has its value, if that is
/// a scalar, and the others', which some answers need. Nothing if the word is not known.
std::optional<std::string> foreign_key(std::string_view name, const KeyValues& values);

/// The end of a message about a value that the key `path` does not take: "paged_adamw_8bit is
/// adamw here". Nothing if the word is not known.
std::optional<std::string> foreign_value(std::string_view path, std::string_view value);

/// In lower case, with '_' for '-', as both tables have them.
std::string folded_word(std::string_view word);

}  // namespace qshard
