#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/regex.h"

namespace qshard::tok {

/// One stage from tokens back to text.
class DecoderStep {
  public:
    virtual ~DecoderStep() = default;
    virtual void apply(std::vector<std::string>& tokens) const = 0;
};

/// A sequence of steps whose results are joined; with no step at all the tokens are joined by
/// spaces, as the reference does.
class Decoder {
  public:
    void add(std::unique_ptr<DecoderStep> step) { steps_.push_back(std::move(step)); }
    std::string decode(std::vector<std::string> tokens) const;

  private:
    std::vector<std::unique_ptr<DecoderStep>> steps_;
};

std::unique_ptr<DecoderStep> make_byte_level_decoder();
/// <0xHH> tokens to bytes; a run that is not UTF-8 becomes one U+FFFD a byte.
std::unique_ptr<DecoderStep> make_byte_fallback_decoder();
std::unique_ptr<DecoderStep> make_fuse_decoder();
std::unique_ptr<DecoderStep> make_replace_decoder(std::unique_ptr<Matcher> matcher,
                                                  std::string content);
/// Takes up to `start` and `stop` characters `content` off the ends of every token.
std::unique_ptr<DecoderStep> make_strip_decoder(std::string content, std::int64_t start,
                                                std::int64_t stop);
std::unique_ptr<DecoderStep> make_metaspace_decoder(std::string marker, bool strips_first);
/// Word suffixes become spaces, except at the end.
std::unique_ptr<DecoderStep> make_suffix_decoder(std::string suffix);

}  // namespace qshard::tok
