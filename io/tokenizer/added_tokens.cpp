#include "io/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

std::size_t space_begin_before(std::string_view text, std::size_t at) {
    while (at > 0 && (classes_of_last(text.substr(0, at)) & kSpace)) {
        do --at;
        while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
    }
    return at;
}

std::size_t space_end_after(std::string_view text, std::size_t at) {
    while (at < text.size()) {
        const DecodedChar c = decode_char(text.data() + at);
        if (!(classes_of(c.code) & kSpace)) break;
        at += c.bytes;
    }
    return at;
}

bool is_single_word(std::string_view text, std::size_t begin, std::size_t end) {
    const bool word_before = classes_of_last(text.substr(0, begin)) & kWord;
    const bool word_after =
        end < text.size() && (classes_of(decode_char(text.data() + end).code) & kWord);
    return !word_before && !word_after;
}

}  // namespace

void TokenFinder::add(std::string_view content, std::int32_t index) {
    if (content.empty()) return;
    starts_[static_cast<unsigned char>(content[0])] = true;
    std::int32_t node = 0;
    for (const char c : content) {
        const auto byte = static_cast<unsigned char>(c);
        auto& children = nodes_[node].children;
        auto at =
            std::lower_bound(children.begin(), children.end(), std::pair{byte, std::int32_t{0}});
        if (at == children.end() || at->first != byte) {
            at = children.insert(at, {byte, static_cast<std::int32_t>(nodes_.size())});
            node = at->second;
            nodes_.emplace_back();
        } else {
            node = at->second;
        }
    }
    if (nodes_[node].index < 0) nodes_[node].index = index;
}

TokenFinder::Match TokenFinder::find(std::string_view text, std::size_t from) const {
    for (; from < text.size(); ++from) {
        if (!starts_[static_cast<unsigned char>(text[from])]) continue;
        Match longest{from, from, -1};
        std::int32_t node = 0;
        for (std::size_t at = from; at < text.size();) {
            const auto byte = static_cast<unsigned char>(text[at++]);
            const auto& children = nodes_[node].children;
            const auto child = std::lower_bound(children.begin(), children.end(),
                                                std::pair{byte, std::int32_t{0}});
            if (child == children.end() || child->first != byte) break;
            node = child->second;
            if (nodes_[node].index >= 0) longest = {from, at, nodes_[node].index};
        }
        if (longest.index >= 0) return longest;
    }
    return {text.size(), text.size(), -1};
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer)
    : tokens_(std::move(tokens)) {
    for (const bool special : {true, false}) {
        for (std::size_t i = 0; i < tokens_.size(); ++i) {
            const AddedToken& token = tokens_[i];
            if (token.special != special) continue;
            if (static_cast<std::size_t>(token.id) >= special_.size())
                special_.resize(token.id + 1);
            if (special) special_[token.id] = true;
            if (token.normalized) {
                Text content(token.content, 0, false);
                normalizer.apply(content);
                normalized_.add(content.view(), static_cast<std::int32_t>(i));
            } else {
                raw_.add(token.content, static_cast<std::int32_t>(i));
            }
        }
    }
}

std::vector<Piece> AddedTokens::cut(std::string_view text, bool normalized,
                                    bool split_special) const {
    const TokenFinder& finder = normalized ? normalized_ : raw_;
    std::vector<Piece> pieces;
    std::size_t done = 0;
    const auto add = [&pieces](std::size_t begin, std::size_t end, std::int32_t id) {
        if (begin < end) {
            pieces.push_back(
                {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end), id});
        }
    };
    for (std::size_t at = 0; at < text.size();) {
        const TokenFinder::Match match = finder.find(text, at);
        if (match.index < 0) break;
        // The search goes on after the bare match even where rstrip took more, as the reference
        // does.
        at = match.end;
        const AddedToken& token = tokens_[match.index];
        if (split_special && token.special) continue;
        if (token.single_word && !is_single_word(text, match.begin, match.end)) continue;
        std::size_t begin = match.begin, end = match.end;
        if (token.lstrip) begin = std::max(space_begin_before(text, begin), done);
        if (token.rstrip) end = space_end_after(text, end);
        add(done, begin, -1);
        add(begin, end, token.id);
        done = end;
    }
    add(done, text.size(), -1);
    return pieces;
}

}  // namespace qshard::tok
