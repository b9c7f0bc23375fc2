#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace qshard {

/// A regular expression over module paths ("model.layers.0.self_attn.q_proj") with Python's syntax.
class ModulePattern {
  public:
    /// UserError naming `key` if the pattern is malformed or longer than 4096 bytes.
    ModulePattern(std::string_view pattern, std::string key);
    /// For keys of rank_pattern and alpha_pattern: KEY matches where a path ends in it, after a dot
    /// or as a whole.
    static ModulePattern at_the_end(std::string_view pattern, std::string key);

    /// Whether the whole path matches (re.fullmatch). UserError if that takes too long to find out.
    bool matches(std::string_view path) const;

  private:
    struct Code;
    std::shared_ptr<const Code> code_;  // patterns are copied with the options they are part of
    std::string pattern_, key_;
};

}  // namespace qshard
