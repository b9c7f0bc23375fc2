#include "io/tokenizer/tokenizer.h"

#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "io/tokenizer/state.h"
#include "io/tokenizer/unicode.h"

namespace qshard {
namespace tok {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

// Tokens of recent words, one direct-mapped table a thread (1 MiB). A hit gives what the model
// would: words are compared in full.
class WordCache {
  public:
    /// Appends the tokens of `word`, from the table or the model.
    void encode(const Tokenizer::State& state, std::string_view word,
                std::vector<ModelToken>& out) {
        if (word.size() > kWordBytes) return state.model->encode(word, out);
        if (owner_ != state.serial) {
            entries_.assign(kEntries, Entry{});
            owner_ = state.serial;
        }
        Entry& entry = entries_[hash_bytes(word.data(), word.size()) >> (64 - kEntriesLog2)];
        if (entry.word_bytes == word.size() &&
            std::memcmp(entry.word.data(), word.data(), word.size()) == 0) {
            std::uint32_t begin = 0;
            for (int i = 0; i < entry.count; ++i) {
                out.push_back({entry.ids[i], entry.ends[i] - begin});
                begin = entry.ends[i];
            }
            return;
        }
        const std::size_t first = out.size();
        state.model->encode(word, out);
        if (out.size() - first <= kTokens) fill(entry, word, std::span(out).subspan(first));
    }

  private:
    static constexpr std::size_t kWordBytes = 32, kTokens = 6;
    static constexpr int kEntriesLog2 = 14;
    static constexpr std::size_t kEntries = std::size_t{1} << kEntriesLog2;
    struct Entry {
        std::array<std::int32_t, kTokens> ids{};
        std::array<std::uint8_t, kTokens> ends{};
        std::uint8_t count = 0, word_bytes = 0;  // word_bytes 0: empty
        std::array<char, kWordBytes> word{};
    };

    static void fill(Entry& entry, std::string_view word, std::span<const ModelToken> tokens) {
        std::uint32_t end = 0;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            end += tokens[i].bytes;
            entry.ids[i] = tokens[i].id;
            entry.ends[i] = static_cast<std::uint8_t>(end);
        }
        entry.count = static_cast<std::uint8_t>(tokens.size());
        entry.word_bytes = static_cast<std::uint8_t>(word.size());
        std::memcpy(entry.word.data(), word.data(), word.size());
    }

    std::uint64_t owner_ = 0;
    std::vector<Entry> entries_;
};

void check_text(std::string_view text) {
    if (text.size() > kMaxTextBytes) {
        throw UserError(
            fmt::format("encoding a text of {} bytes: at most {} are accepted; split it",
                        text.size(), kMaxTextBytes));
    }
    const std::size_t valid = valid_utf8_prefix(text);
    if (valid < text.size()) {
        throw UserError(
            fmt::format("encoding a text: expected UTF-8, found byte 0x{:02X} at offset {}",
                        static_cast<unsigned char>(text[valid]), valid));
    }
}

// Runs the pipeline. `emit(id, text, begin, end)` gets each token and its place in its segment's
// current text.
template <class Emit>
void run_pipeline(const Tokenizer::State& state, std::string_view input, bool split_special,
                  bool track, Emit emit) {
    thread_local WordCache cache;
    std::vector<ModelToken> tokens;
    const auto add = [&emit](std::int32_t id, const Text& text, std::uint32_t begin,
                             std::uint32_t end) { emit(id, text, begin, end); };
    for (const Piece& segment : state.added.cut(input, false, split_special)) {
        Text text(input.substr(segment.begin, segment.end - segment.begin), segment.begin, track);
        if (segment.id >= 0) {
            add(segment.id, text, 0, segment.end - segment.begin);
            continue;
        }
        state.normalizer.apply(text);
        std::vector<Piece> pieces = state.added.cut(text.view(), true, split_special);
        state.pre_tokenizer.apply(text, pieces);
        for (const Piece& piece : pieces) {
            if (piece.id >= 0) {
                add(piece.id, text, piece.begin, piece.end);
                continue;
            }
            tokens.clear();
            cache.encode(state, text.view().substr(piece.begin, piece.end - piece.begin), tokens);
            std::uint32_t begin = piece.begin;
            for (const ModelToken& token : tokens) {
                add(token.id, text, begin, begin + token.bytes);
                begin += token.bytes;
            }
        }
    }
}

}  // namespace

std::uint64_t next_serial() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
}

void set_added_tokens(Tokenizer::State& state, std::vector<AddedToken> tokens) {
    for (const AddedToken& token : tokens) state.vocabulary.insert(token.id, token.content);
    state.added = AddedTokens(std::move(tokens), state.normalizer);
}

}  // namespace tok

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8, bool add_special_tokens,
                                            SpecialsInText specials) const {
    tok::check_text(utf8);
    std::vector<std::int32_t> ids;
    ids.reserve(utf8.size() / 3 + 8);
    if (add_special_tokens) ids = state_->prefix;
    tok::run_pipeline(*state_, utf8, specials == SpecialsInText::kSplit,
                      state_->pre_tokenizer.needs_origins(),
                      [&ids](std::int32_t id, const tok::Text&, std::uint32_t, std::uint32_t) {
                          ids.push_back(id);
                      });
    if (add_special_tokens) ids.insert(ids.end(), state_->suffix.begin(), state_->suffix.end());
    return ids;
}

std::vector<TokenSpan> Tokenizer::encode_with_offsets(std::string_view utf8,
                                                      bool add_special_tokens,
                                                      SpecialsInText specials) const {
    tok::check_text(utf8);
    std::vector<TokenSpan> spans;
    const auto add_all = [&spans, add_special_tokens](const std::vector<std::int32_t>& ids,
                                                      std::size_t place) {
        if (!add_special_tokens) return;
        const auto at = static_cast<std::int64_t>(place);
        for (const std::int32_t id : ids) spans.push_back({id, at, at});
    };
    add_all(state_->prefix, 0);
    tok::run_pipeline(
        *state_, utf8, specials == SpecialsInText::kSplit, true,
        [&spans](std::int32_t id, const tok::Text& text, std::uint32_t begin, std::uint32_t end) {
            const tok::Origin origin = text.origin(begin, end);
            spans.push_back({id, origin.begin, origin.end});
        });
    add_all(state_->suffix, utf8.size());
    return spans;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const std::int32_t id : ids) {
        if (!state_->vocabulary.contains(id) || (skip_special_tokens && is_special(id))) continue;
        tokens.emplace_back(state_->vocabulary.token(id));
    }
    return state_->decoder.decode(std::move(tokens));
}

std::int64_t Tokenizer::vocabulary_count() const {
    return state_->vocabulary.count();
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
    const std::int32_t id = state_->vocabulary.find(token);
    if (id < 0) return std::nullopt;
    return id;
}

std::string Tokenizer::id_to_token(std::int32_t id) const {
    return std::string(state_->vocabulary.token(id));
}
bool Tokenizer::is_special(std::int32_t id) const {
    return state_->added.is_special(id);
}
std::string Tokenizer::sha256() const {
    return state_->digest;
}

}  // namespace qshard
