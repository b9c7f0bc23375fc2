#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/data/encode.h"

namespace qshard::test {

/// One token a byte, but for a few longer ones; id 300 is BOS, which the "post-processor" adds, 301
/// is EOS "</s>".
class ByteEncoder : public TextEncoder {
  public:
    explicit ByteEncoder(bool adds_bos = false) : adds_bos_(adds_bos) {}

    std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                               bool add_special_tokens) const override {
        static const std::vector<std::string> kLong{"<|im_start|>", "<|im_end|>", "\n\n"};
        std::vector<TokenSpan> tokens;
        if (add_special_tokens && adds_bos_) tokens.push_back({300, 0, 0});
        for (std::size_t i = 0; i < text.size();) {
            std::int32_t id = static_cast<unsigned char>(text[i]);
            std::size_t bytes = 1;
            for (std::size_t k = 0; k < kLong.size(); ++k) {
                if (!text.substr(i).starts_with(kLong[k])) continue;
                id = static_cast<std::int32_t>(256 + k);
                bytes = kLong[k].size();
            }
            tokens.push_back(
                {id, static_cast<std::int64_t>(i), static_cast<std::int64_t>(i + bytes)});
            i += bytes;
        }
        return tokens;
    }

    std::vector<std::int32_t> encode(std::string_view text,
                                     bool add_special_tokens) const override {
        std::vector<std::int32_t> ids;
        for (const TokenSpan& token : encode_with_offsets(text, add_special_tokens))
            ids.push_back(token.id);
        return ids;
    }

    /// The text of tokens, "·" for those that are masked.
    static std::string trained_text(const EncodedRow& row) {
        std::string text;
        for (std::size_t i = 0; i < row.ids.size(); ++i) {
            const std::int32_t id = row.ids[i];
            const std::string token = id < 256    ? std::string(1, static_cast<char>(id))
                                      : id == 256 ? "<|im_start|>"
                                      : id == 257 ? "<|im_end|>"
                                      : id == 258 ? "\n\n"
                                      : id == 300 ? "<s>"
                                                  : "</s>";
            text += row.labels[i] == -100 ? "·" : token;
        }
        std::string merged;  // one dot for a run
        for (std::size_t i = 0; i < text.size(); ++i) {
            const std::string dot = "·";
            if (text.substr(i, dot.size()) == dot) {
                if (!merged.ends_with(dot)) merged += dot;
                i += dot.size() - 1;
            } else {
                merged += text[i];
            }
        }
        return merged;
    }

  private:
    bool adds_bos_;
};

/// A folder of files that goes away with the test.
class Files {
  public:
    Files() {
        const auto* test = testing::UnitTest::GetInstance()->current_test_info();
        folder_ = std::filesystem::path(testing::TempDir()) /
                  fmt::format("qshard-{}-{}", test->name(), static_cast<const void*>(this));
        std::filesystem::create_directories(folder_);
    }
    ~Files() { std::filesystem::remove_all(folder_); }
    std::string write(const std::string& name, const std::string& text) const {
        std::ofstream(folder_ / name, std::ios::binary) << text;
        return (folder_ / name).string();
    }
    /// A message without the folder.
    std::string shorten(std::string message) const {
        const std::string prefix = folder_.string() + "/";
        for (std::size_t at; (at = message.find(prefix)) != std::string::npos;)
            message.erase(at, prefix.size());
        return message;
    }

  private:
    std::filesystem::path folder_;
};

template <class Function>
std::string error_of(Function function) {
    try {
        function();
    } catch (const UserError& error) {
        return error.what();
    }
    return "no error";
}

}  // namespace qshard::test
