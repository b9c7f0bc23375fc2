#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace qshard::tok {

/// A token and how many bytes of the word it covers. The tokens of a word tile it.
struct ModelToken {
    std::int32_t id;
    std::uint32_t bytes;
};

/// Tokenizes one word (a piece the pre-tokenizer left). Stateless: equal words give equal tokens.
class Model {
  public:
    virtual ~Model() = default;
    /// Appends to `out`.
    virtual void encode(std::string_view word, std::vector<ModelToken>& out) const = 0;
};

}  // namespace qshard::tok
