#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/hash.h"
#include "io/tokenizer/vocabulary.h"

namespace qshard::tok {

/// Hash of a tokenizer's definition: a list of strings, each with its length so that none runs into
/// the next.
class Digest {
  public:
    void add(std::string_view text) {
        buffer_ += fmt::format("{}:", text.size());
        buffer_.append(text);
        if (buffer_.size() > (1u << 16)) flush();
    }
    void add(const Vocabulary& vocabulary) {
        for (std::int32_t id = 0; id < vocabulary.count(); ++id) {
            if (!vocabulary.contains(id)) continue;
            add(fmt::format("{}", id));
            add(vocabulary.token(id));
        }
    }
    std::string hex() {
        flush();
        return sha256_.hex();
    }

  private:
    void flush() {
        sha256_.update(buffer_);
        buffer_.clear();
    }
    Sha256 sha256_;
    std::string buffer_;
};

}  // namespace qshard::tok
