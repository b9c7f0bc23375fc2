#include "io/tokenizer/decoder.h"

#include <charconv>
#include <utility>

#include "io/tokenizer/bpe.h"
#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

std::string replace_all(std::string_view text, const Matcher& matcher, std::string_view with) {
    std::vector<Range> matches;
    matcher.find(text, matches);
    std::string out;
    std::size_t done = 0;
    for (const Range& m : matches) {
        out.append(text.substr(done, m.begin - done)).append(with);
        done = m.end;
    }
    return out.append(text.substr(done));
}

std::string join(const std::vector<std::string>& tokens, std::string_view between) {
    std::string out;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (i > 0) out.append(between);
        out += tokens[i];
    }
    return out;
}

class ByteLevelDecoder : public DecoderStep {
  public:
    void apply(std::vector<std::string>& tokens) const override {
        std::string bytes;
        for (const std::string& token : tokens) bytes += byte_level_bytes(token).value_or(token);
        tokens = {to_valid_utf8(bytes)};
    }
};

class ByteFallbackDecoder : public DecoderStep {
  public:
    void apply(std::vector<std::string>& tokens) const override {
        std::vector<std::string> out;
        std::string bytes;
        const auto flush = [&out, &bytes] {
            if (bytes.empty()) return;
            if (valid_utf8_prefix(bytes) == bytes.size()) {
                out.push_back(bytes);
            } else {
                out.insert(out.end(), bytes.size(), "\uFFFD");
            }
            bytes.clear();
        };
        for (std::string& token : tokens) {
            if (const int byte = byte_of(token); byte >= 0) {
                bytes += static_cast<char>(byte);
            } else {
                flush();
                out.push_back(std::move(token));
            }
        }
        flush();
        tokens = std::move(out);
    }

  private:
    static int byte_of(std::string_view token) {
        if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
        int byte = -1;
        const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
        return error == std::errc() && end == token.data() + 5 && byte >= 0 ? byte : -1;
    }
};

class FuseDecoder : public DecoderStep {
  public:
    void apply(std::vector<std::string>& tokens) const override { tokens = {join(tokens, "")}; }
};

class ReplaceDecoder : public DecoderStep {
  public:
    ReplaceDecoder(std::unique_ptr<Matcher> matcher, std::string content)
        : matcher_(std::move(matcher)), content_(std::move(content)) {}
    void apply(std::vector<std::string>& tokens) const override {
        for (std::string& token : tokens) token = replace_all(token, *matcher_, content_);
    }

  private:
    std::unique_ptr<Matcher> matcher_;
    std::string content_;
};

class StripDecoder : public DecoderStep {
  public:
    StripDecoder(std::string content, std::int64_t start, std::int64_t stop)
        : content_(std::move(content)), start_(start), stop_(stop) {}
    void apply(std::vector<std::string>& tokens) const override {
        for (std::string& token : tokens) {
            std::string_view rest = token;
            for (std::int64_t i = 0; i < start_ && rest.starts_with(content_); ++i) {
                rest.remove_prefix(content_.size());
            }
            for (std::int64_t i = 0; i < stop_ && rest.ends_with(content_); ++i) {
                rest.remove_suffix(content_.size());
            }
            token = std::string(rest);
        }
    }

  private:
    std::string content_;
    std::int64_t start_, stop_;
};

class MetaspaceDecoder : public DecoderStep {
  public:
    MetaspaceDecoder(std::string marker, bool strips_first)
        : marker_(make_literal(std::move(marker))), strips_first_(strips_first) {}
    void apply(std::vector<std::string>& tokens) const override {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            tokens[i] = replace_all(tokens[i], *marker_, i == 0 && strips_first_ ? "" : " ");
        }
    }

  private:
    std::unique_ptr<Matcher> marker_;
    bool strips_first_;
};

class SuffixDecoder : public DecoderStep {
  public:
    explicit SuffixDecoder(std::string suffix) : suffix_(make_literal(std::move(suffix))) {}
    void apply(std::vector<std::string>& tokens) const override {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            tokens[i] = replace_all(tokens[i], *suffix_, i + 1 == tokens.size() ? "" : " ");
        }
    }

  private:
    std::unique_ptr<Matcher> suffix_;
};

}  // namespace

std::string Decoder::decode(std::vector<std::string> tokens) const {
    for (const auto& step : steps_) step->apply(tokens);
    return join(tokens, steps_.empty() ? " " : "");
}

std::unique_ptr<DecoderStep> make_byte_level_decoder() {
    return std::make_unique<ByteLevelDecoder>();
}
std::unique_ptr<DecoderStep> make_byte_fallback_decoder() {
    return std::make_unique<ByteFallbackDecoder>();
}
std::unique_ptr<DecoderStep> make_fuse_decoder() {
    return std::make_unique<FuseDecoder>();
}
std::unique_ptr<DecoderStep> make_replace_decoder(std::unique_ptr<Matcher> matcher,
                                                  std::string content) {
    return std::make_unique<ReplaceDecoder>(std::move(matcher), std::move(content));
}
std::unique_ptr<DecoderStep> make_strip_decoder(std::string content, std::int64_t start,
                                                std::int64_t stop) {
    return std::make_unique<StripDecoder>(std::move(content), start, stop);
}
std::unique_ptr<DecoderStep> make_metaspace_decoder(std::string marker, bool strips_first) {
    return std::make_unique<MetaspaceDecoder>(std::move(marker), strips_first);
}
std::unique_ptr<DecoderStep> make_suffix_decoder(std::string suffix) {
    return std::make_unique<SuffixDecoder>(std::move(suffix));
}

}  // namespace qshard::tok
