#include "io/tokenizer/unigram.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

// A character without a token costs this much more than the worst token.
constexpr double kUnknownPenalty = 10.0;

std::size_t total_bytes(const Vocabulary& vocabulary) {
    std::size_t bytes = 0;
    for (std::int32_t id = 0; id < vocabulary.count(); ++id) bytes += vocabulary.token(id).size();
    return bytes;
}

}  // namespace

// The best way to reach a byte position: its last token and where that began (-1: not reached).
struct Unigram::Step {
    double score = 0.0;
    std::int64_t begin = -1;
    std::int32_t id = -1;
    void offer(double candidate, std::size_t from, std::int32_t token) {
        if (begin >= 0 && candidate <= score) return;
        *this = {candidate, static_cast<std::int64_t>(from), token};
    }
};

Unigram::Unigram(UnigramDefinition definition)
    : definition_(std::move(definition)), edges_(total_bytes(definition_.vocabulary)) {
    const Vocabulary& vocabulary = definition_.vocabulary;
    double lowest = std::numeric_limits<double>::infinity();
    for (const double score : definition_.scores) lowest = std::min(lowest, score);
    unknown_score_ = lowest - kUnknownPenalty;
    for (int b = 0; b < 256; ++b) byte_tokens_[b] = vocabulary.find(fmt::format("<0x{:02X}>", b));
    std::int32_t nodes = 1;
    for (std::int32_t id = 0; id < vocabulary.count(); ++id) {
        const std::string_view token = vocabulary.token(id);
        std::int32_t node = 0;
        for (std::size_t i = 0; i < token.size(); ++i) {
            const std::int32_t byte = static_cast<unsigned char>(token[i]);
            const PairMerge* edge = edges_.find(node, byte);
            PairMerge next = edge != nullptr ? *edge : PairMerge{-1, nodes++};
            if (i + 1 == token.size()) next.rank = vocabulary.find(token);
            edges_.insert(node, byte, next);
            node = next.merged;
        }
    }
}

void Unigram::extend(std::string_view word, std::size_t begin, std::vector<Step>& best) const {
    const std::size_t char_bytes = decode_char(word.data() + begin).bytes;
    const double score = best[begin].score;
    bool has_char = false;
    std::int32_t node = 0;
    for (std::size_t end = begin; end < word.size();) {
        const PairMerge* edge = edges_.find(node, static_cast<unsigned char>(word[end++]));
        if (edge == nullptr) break;
        node = edge->merged;
        if (edge->rank < 0) continue;
        best[end].offer(definition_.scores[edge->rank] + score, begin, edge->rank);
        if (end - begin == char_bytes) has_char = true;
    }
    if (has_char) return;
    if (definition_.unknown < 0) {
        throw UserError("encoding: a character has no token and the Unigram model has no unk_id");
    }
    best[begin + char_bytes].offer(unknown_score_ + score, begin, definition_.unknown);
}

void Unigram::encode(std::string_view word, std::vector<ModelToken>& out) const {
    std::vector<Step> best(word.size() + 1);
    for (std::size_t at = 0; at < word.size(); at += decode_char(word.data() + at).bytes) {
        extend(word, at, best);
    }
    std::vector<std::string_view> pieces;  // from the last to the first, runs of unknowns as one
    std::size_t end = word.size();
    while (end > 0) {
        auto begin = static_cast<std::size_t>(best[end].begin);
        const std::int32_t id = best[end].id;
        while (id == definition_.unknown && begin > 0 && best[begin].id == id) {
            begin = static_cast<std::size_t>(best[begin].begin);
        }
        pieces.push_back(word.substr(begin, end - begin));
        end = begin;
    }
    for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) add_piece(*piece, out);
}

void Unigram::add_piece(std::string_view piece, std::vector<ModelToken>& out) const {
    const std::int32_t id = definition_.vocabulary.find(piece);
    const auto has_token = [this](char c) {
        return byte_tokens_[static_cast<unsigned char>(c)] >= 0;
    };
    if (id < 0 && definition_.byte_fallback && std::all_of(piece.begin(), piece.end(), has_token)) {
        for (const char c : piece) out.push_back({byte_tokens_[static_cast<unsigned char>(c)], 1});
        return;
    }
    out.push_back({id < 0 ? definition_.unknown : id, static_cast<std::uint32_t>(piece.size())});
}

}  // namespace qshard::tok
