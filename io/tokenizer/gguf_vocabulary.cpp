#include "io/tokenizer/gguf_vocabulary.h"

#include <algorithm>
#include <functional>
#include <string_view>

namespace qshard::tok {
namespace {

/// GGUF has no flag for it: the specials of Phi-3's tokenizer take the white space behind them, so
/// that the line breaks of its chat template are no tokens.
bool strips_right(const GgufTokenizerData& data, std::string_view token) {
    return data.specials_strip_right && token != "<unk>" && token != "<s>" &&
           token != "<|endoftext|>";
}

}  // namespace

std::int32_t gguf_token_type(const GgufTokenizerData& data, std::size_t id) {
    return data.token_types.empty() ? kNormal : data.token_types[id];
}

std::vector<AddedToken> gguf_added_tokens(const GgufTokenizerData& data) {
    std::vector<AddedToken> added;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        const std::int32_t type = gguf_token_type(data, id);
        if (type != kControl && type != kUserDefined && type != kUnknown) continue;
        if (data.tokens[id].empty()) continue;
        AddedToken token;
        token.id = static_cast<std::int32_t>(id);
        token.content = data.tokens[id];
        token.special = type != kUserDefined;
        token.rstrip = strips_right(data, token.content);
        added.push_back(std::move(token));
    }
    return added;
}

Vocabulary gguf_model_vocabulary(const GgufTokenizerData& data) {
    Vocabulary vocabulary;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        const std::int32_t type = gguf_token_type(data, id);
        if (type == kControl || type == kUnknown) continue;
        vocabulary.insert(static_cast<std::int64_t>(id), data.tokens[id]);
    }
    return vocabulary;
}

std::vector<Merge> gguf_scored_merges(const GgufTokenizerData& data, const Vocabulary& vocabulary) {
    std::vector<float> scores(data.scores);
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    std::vector<Merge> merges;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        if (gguf_token_type(data, id) == kByte ||
            !vocabulary.contains(static_cast<std::int32_t>(id)))
            continue;
        const std::string_view token = data.tokens[id];
        const auto place =
            std::lower_bound(scores.begin(), scores.end(), data.scores[id], std::greater<>());
        const auto rank = static_cast<std::int32_t>(place - scores.begin());
        for (std::size_t cut = 1; cut < token.size(); ++cut) {
            const std::int32_t left = vocabulary.find(token.substr(0, cut));
            if (left < 0) continue;
            const std::int32_t right = vocabulary.find(token.substr(cut));
            if (right >= 0) merges.push_back({left, right, rank, static_cast<std::int32_t>(id)});
        }
    }
    return merges;
}

}  // namespace qshard::tok
