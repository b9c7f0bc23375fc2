#include "io/tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>

#include "base/error.h"
#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

constexpr std::int32_t kNoRank = std::numeric_limits<std::int32_t>::max();
// Up to here a scan for the lowest rank beats a heap.
constexpr std::size_t kShortWord = 48;

struct ShortSymbol {
    ModelToken token;
    PairMerge next;  // the merge with the symbol to the right; rank kNoRank if there is none
};

PairMerge merge_of(const PairTable& pairs, std::int32_t left, std::int32_t right) {
    const PairMerge* merge = pairs.find(left, right);
    return merge != nullptr ? *merge : PairMerge{kNoRank, -1};
}

void merge_short(const PairTable& pairs, std::vector<ModelToken>& symbols, std::size_t first) {
    std::array<ShortSymbol, kShortWord> word;
    std::size_t count = symbols.size() - first;
    for (std::size_t i = 0; i < count; ++i) word[i].token = symbols[first + i];
    for (std::size_t i = 0; i + 1 < count; ++i) {
        word[i].next = merge_of(pairs, word[i].token.id, word[i + 1].token.id);
    }
    word[count - 1].next = {kNoRank, -1};
    while (true) {
        std::size_t best = 0;
        for (std::size_t i = 1; i < count; ++i) {
            if (word[i].next.rank < word[best].next.rank) best = i;
        }
        if (word[best].next.rank == kNoRank) break;
        word[best].token = {word[best].next.merged,
                            word[best].token.bytes + word[best + 1].token.bytes};
        std::copy(word.begin() + best + 2, word.begin() + count, word.begin() + best + 1);
        --count;
        word[best].next = best + 1 < count
                              ? merge_of(pairs, word[best].token.id, word[best + 1].token.id)
                              : PairMerge{kNoRank, -1};
        if (best > 0) {
            word[best - 1].next = merge_of(pairs, word[best - 1].token.id, word[best].token.id);
        }
    }
    symbols.resize(first + count);
    for (std::size_t i = 0; i < count; ++i) symbols[first + i] = word[i].token;
}

struct LongSymbol {
    ModelToken token;
    std::int64_t previous, next;  // -1: none
    bool removed;
};

struct Candidate {
    PairMerge merge;
    std::int64_t position;
    std::int32_t left, right;  // the ids it was made for: otherwise it is stale
    bool operator<(const Candidate& other) const {  // for a max-heap: the best is the greatest
        return merge.rank != other.merge.rank ? merge.rank > other.merge.rank
                                              : position > other.position;
    }
};

void merge_long(const PairTable& pairs, std::vector<ModelToken>& symbols, std::size_t first) {
    const auto count = static_cast<std::int64_t>(symbols.size() - first);
    std::vector<LongSymbol> word(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
        word[i] = {symbols[first + static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1,
                   false};
    }
    std::priority_queue<Candidate> queue;
    const auto offer = [&](std::int64_t position) {
        if (position < 0 || word[position].next < 0) return;
        const std::int32_t left = word[position].token.id,
                           right = word[word[position].next].token.id;
        if (const PairMerge* merge = pairs.find(left, right))
            queue.push({*merge, position, left, right});
    };
    for (std::int64_t i = 0; i < count; ++i) offer(i);
    while (!queue.empty()) {
        const Candidate top = queue.top();
        queue.pop();
        LongSymbol& left = word[top.position];
        if (left.removed || left.next < 0 || left.token.id != top.left) continue;
        LongSymbol& right = word[left.next];
        if (right.token.id != top.right) continue;
        left.token = {top.merge.merged, left.token.bytes + right.token.bytes};
        right.removed = true;
        left.next = right.next;
        if (left.next >= 0) word[left.next].previous = top.position;
        offer(left.previous);
        offer(top.position);
    }
    symbols.resize(first);
    for (std::int64_t i = 0; i >= 0 && i < count; i = word[i].next)
        symbols.push_back(word[i].token);
}

}  // namespace

std::optional<std::string> byte_level_bytes(std::string_view token) {
    std::string bytes;
    for (std::size_t at = 0; at < token.size();) {
        const DecodedChar c = decode_char(token.data() + at);
        const int byte = char_to_byte(c.code);
        if (byte < 0) return std::nullopt;
        bytes += static_cast<char>(byte);
        at += c.bytes;
    }
    return bytes;
}

// Characters that became unknown but are not written yet, so that a run of them can become one
// token.
struct Bpe::Pending {
    std::size_t first;          // the word's first symbol
    std::uint32_t bytes = 0;    // of the unknown token to come; 0: none
    std::uint32_t dropped = 0;  // bytes before the first symbol that no token stands for
};

Bpe::Bpe(BpeDefinition definition)
    : definition_(std::move(definition)), pairs_(definition_.merges.size()) {
    for (const Merge& m : definition_.merges) pairs_.insert(m.left, m.right, {m.rank, m.merged});
    definition_.merges = {};
    const Vocabulary& vocabulary = definition_.vocabulary;
    const bool plain = definition_.continuing_prefix.empty() && definition_.word_suffix.empty();
    has_all_byte_symbols_ = definition_.byte_level && plain;
    for (int b = 0; b < 256; ++b) {
        byte_tokens_[b] = vocabulary.find(fmt::format("<0x{:02X}>", b));
        std::string text;
        append_utf8(text, definition_.byte_level ? byte_to_char(static_cast<unsigned char>(b))
                                                 : static_cast<char32_t>(b));
        const bool usable = plain && (definition_.byte_level || b < 0x80);
        initial_symbols_[b] = usable ? vocabulary.find(text) : -1;
        if (initial_symbols_[b] < 0) has_all_byte_symbols_ = false;
    }
    if (definition_.byte_level && definition_.ignore_merges) {
        for (std::int32_t id = 0; id < vocabulary.count(); ++id) {
            if (!vocabulary.contains(id)) continue;
            if (const auto bytes = byte_level_bytes(vocabulary.token(id))) raw_.insert(id, *bytes);
        }
    }
}

void Bpe::encode(std::string_view word, std::vector<ModelToken>& out) const {
    if (definition_.ignore_merges) {
        const std::int32_t id = (definition_.byte_level ? raw_ : definition_.vocabulary).find(word);
        if (id >= 0) {
            out.push_back({id, static_cast<std::uint32_t>(word.size())});
            return;
        }
    }
    const std::size_t first = out.size();
    add_initial_symbols(word, out);
    const std::size_t count = out.size() - first;
    if (count < 2) return;
    if (count <= kShortWord) {
        merge_short(pairs_, out, first);
    } else {
        merge_long(pairs_, out, first);
    }
}

void Bpe::add_initial_symbols(std::string_view word, std::vector<ModelToken>& symbols) const {
    if (has_all_byte_symbols_) {
        for (const char c : word)
            symbols.push_back({initial_symbols_[static_cast<unsigned char>(c)], 1});
        return;
    }
    const std::size_t first = symbols.size();
    Pending pending{first};
    std::string text;
    for (std::size_t at = 0; at < word.size();) {
        const auto lead = static_cast<unsigned char>(word[at]);
        if (initial_symbols_[lead] >= 0 && pending.bytes == 0) {
            symbols.push_back({initial_symbols_[lead], 1});
            ++at;
            continue;
        }
        const std::uint32_t bytes =
            definition_.byte_level ? 1 : decode_char(word.data() + at).bytes;
        text = at > 0 ? definition_.continuing_prefix : "";
        if (definition_.byte_level) {
            append_utf8(text, byte_to_char(lead));
        } else {
            text.append(word.substr(at, bytes));
        }
        at += bytes;
        if (at == word.size()) text += definition_.word_suffix;
        add_symbol(text, bytes, pending, symbols);
    }
    if (pending.bytes > 0) symbols.push_back({definition_.unknown, pending.bytes});
    if (pending.dropped > 0 && symbols.size() > first) symbols[first].bytes += pending.dropped;
}

void Bpe::add_symbol(std::string_view text, std::uint32_t bytes, Pending& pending,
                     std::vector<ModelToken>& symbols) const {
    const std::int32_t id = definition_.vocabulary.find(text);
    if (id >= 0) {
        if (pending.bytes > 0)
            symbols.push_back({definition_.unknown, std::exchange(pending.bytes, 0)});
        symbols.push_back({id, bytes});
        return;
    }
    const auto has_token = [this](char c) {
        return byte_tokens_[static_cast<unsigned char>(c)] >= 0;
    };
    if (definition_.byte_fallback && std::all_of(text.begin(), text.end(), has_token)) {
        // Affixes of the symbol make more tokens than the word has bytes: the last ones are empty.
        for (const char c : text) {
            symbols.push_back({byte_tokens_[static_cast<unsigned char>(c)], bytes > 0 ? 1u : 0u});
            bytes -= bytes > 0;
        }
        return;
    }
    if (definition_.unknown < 0) {
        (symbols.size() == pending.first ? pending.dropped : symbols.back().bytes) += bytes;
        return;
    }
    if (pending.bytes > 0 && !definition_.fuse_unknown) {
        symbols.push_back({definition_.unknown, std::exchange(pending.bytes, 0)});
    }
    pending.bytes += bytes;
}

std::optional<std::vector<std::string>> Bpe::tokens_across(std::string_view marker) const {
    constexpr std::size_t kMost = 16;
    const Vocabulary& vocabulary = definition_.vocabulary;
    if (definition_.byte_level || definition_.ignore_merges || vocabulary.find(marker) < 0 ||
        !definition_.continuing_prefix.empty() || !definition_.word_suffix.empty()) {
        return std::nullopt;
    }
    std::vector<std::string> across;
    for (std::int32_t id = 0; id < vocabulary.count(); ++id) {
        const std::string_view token = vocabulary.token(id);
        std::size_t at = 0;
        while (token.substr(at).starts_with(marker)) at += marker.size();
        if (token.find(marker, at) == std::string_view::npos) continue;
        if (across.size() == kMost) return std::nullopt;
        across.emplace_back(token);
    }
    return across;
}

}  // namespace qshard::tok
