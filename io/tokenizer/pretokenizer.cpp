#include "io/tokenizer/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "io/tokenizer/unicode.h"

namespace qshard::tok {
namespace {

void add_piece(std::vector<Piece>& pieces, std::uint32_t begin, std::uint32_t end) {
    if (begin < end) pieces.push_back({begin, end});
}

class SplitStep : public PreTokenizerStep {
  public:
    SplitStep(std::unique_ptr<Matcher> matcher, SplitBehavior behavior, bool invert)
        : matcher_(std::move(matcher)), behavior_(behavior), invert_(invert) {}

    void apply(Text& text, std::vector<Piece>& pieces) const override {
        std::vector<Piece> out;
        out.reserve(pieces.size() + text.view().size() / 4);
        std::vector<Range> matches;
        std::vector<Part> parts;
        for (const Piece& piece : pieces) {
            if (piece.id >= 0) {
                out.push_back(piece);
                continue;
            }
            matches.clear();
            matcher_->find(text.view().substr(piece.begin, piece.end - piece.begin), matches);
            if (behavior_ == SplitBehavior::kIsolated) {
                isolate(piece, matches, out);
                continue;
            }
            parts.clear();
            std::uint32_t done = piece.begin;
            for (const Range& m : matches) {
                if (done < piece.begin + m.begin)
                    parts.push_back({done, piece.begin + m.begin, invert_});
                parts.push_back({piece.begin + m.begin, piece.begin + m.end, !invert_});
                done = piece.begin + m.end;
            }
            if (done < piece.end) parts.push_back({done, piece.end, invert_});
            join(parts, out);
        }
        pieces = std::move(out);
    }

  private:
    struct Part {
        std::uint32_t begin, end;
        bool match;
    };

    static void isolate(const Piece& piece, const std::vector<Range>& matches,
                        std::vector<Piece>& out) {
        std::uint32_t done = piece.begin;
        for (const Range& m : matches) {
            add_piece(out, done, piece.begin + m.begin);
            add_piece(out, piece.begin + m.begin, piece.begin + m.end);
            done = piece.begin + m.end;
        }
        add_piece(out, done, piece.end);
    }

    // A match joins its neighbour only if that is no match itself (or already holds one).
    void join(std::vector<Part>& parts, std::vector<Piece>& out) const {
        for (std::size_t i = 0; i < parts.size();) {
            std::size_t last = i;
            const auto match = [&parts](std::size_t at) {
                return at < parts.size() && parts[at].match;
            };
            switch (behavior_) {
                case SplitBehavior::kRemoved:
                case SplitBehavior::kIsolated:
                    break;
                case SplitBehavior::kContiguous:
                    while (last + 1 < parts.size() && match(last + 1) == match(i)) ++last;
                    break;
                case SplitBehavior::kMergedWithPrevious:
                    if (!match(i) && match(i + 1)) ++last;
                    break;
                case SplitBehavior::kMergedWithNext:
                    if (match(i) && i + 1 < parts.size() && !match(i + 1)) ++last;
                    break;
            }
            if (behavior_ != SplitBehavior::kRemoved || !match(i))
                add_piece(out, parts[i].begin, parts[last].end);
            i = last + 1;
        }
    }

    std::unique_ptr<Matcher> matcher_;
    SplitBehavior behavior_;
    bool invert_;
};

// Copies a text piece by piece, so that a step can change each and know where it ended up.
template <class WritePiece>
void rewrite_pieces(Text& text, std::vector<Piece>& pieces, WritePiece write) {
    Rewriter writer(text);
    for (Piece& piece : pieces) {
        const Piece old = piece;
        piece.begin = writer.bytes();
        if (old.id >= 0) {
            writer.keep(old.begin, old.end);
        } else {
            write(writer, old);
        }
        piece.end = writer.bytes();
    }
    writer.finish();
}

class AddPrefixSpaceStep : public PreTokenizerStep {
  public:
    void apply(Text& text, std::vector<Piece>& pieces) const override {
        rewrite_pieces(text, pieces, [&text](Rewriter& writer, const Piece& piece) {
            if (text.view()[piece.begin] != ' ') writer.replace(piece.begin, piece.begin, " ");
            writer.keep(piece.begin, piece.end);
        });
    }
};

class ByteSpellingStep : public PreTokenizerStep {
  public:
    void apply(Text& text, std::vector<Piece>& pieces) const override {
        rewrite_pieces(text, pieces, [&text](Rewriter& writer, const Piece& piece) {
            std::string spelled;
            for (std::uint32_t at = piece.begin; at < piece.end; ++at) {
                spelled.clear();
                append_utf8(spelled, byte_to_char(static_cast<unsigned char>(text.view()[at])));
                writer.replace(at, at + 1, spelled);
            }
        });
    }
};

class CutBeforeStep : public PreTokenizerStep {
  public:
    CutBeforeStep(std::string marker, const std::vector<std::string>& across)
        : marker_(std::move(marker)) {
        for (const std::string& token : across) {
            for (std::size_t at = 1; (at = token.find(marker_, at)) != std::string::npos; ++at) {
                if (!std::string_view(token).substr(0, at).ends_with(marker_))
                    across_.push_back({token, at});
            }
        }
    }
    void apply(Text& text, std::vector<Piece>& pieces) const override {
        std::vector<Piece> out;
        for (const Piece& piece : pieces) {
            if (piece.id >= 0) {
                out.push_back(piece);
                continue;
            }
            const std::string_view view = text.view().substr(0, piece.end);
            std::size_t begin = piece.begin, at = piece.begin;
            while ((at = view.find(marker_, at)) != std::string_view::npos) {
                if (at > begin && !view.substr(begin, at - begin).ends_with(marker_) &&
                    !is_within_token(view, piece.begin, at)) {
                    add_piece(out, static_cast<std::uint32_t>(begin),
                              static_cast<std::uint32_t>(at));
                    begin = at;
                }
                at += marker_.size();
            }
            add_piece(out, static_cast<std::uint32_t>(begin), piece.end);
        }
        pieces = std::move(out);
    }

  private:
    /// A token, and where in it a run of markers begins.
    struct Across {
        std::string token;
        std::size_t before;
    };
    bool is_within_token(std::string_view view, std::size_t begin, std::size_t at) const {
        return std::ranges::any_of(across_, [&](const Across& one) {
            return at - begin >= one.before && view.substr(at - one.before).starts_with(one.token);
        });
    }

    std::string marker_;
    std::vector<Across> across_;
};

class MetaspaceStep : public PreTokenizerStep {
  public:
    MetaspaceStep(std::string marker, PrependScheme scheme, bool split)
        : marker_(marker), scheme_(scheme) {
        if (split)
            split_ =
                make_split(make_literal(std::move(marker)), SplitBehavior::kMergedWithNext, false);
    }

    void apply(Text& text, std::vector<Piece>& pieces) const override {
        rewrite_pieces(text, pieces, [&](Rewriter& writer, const Piece& piece) {
            const std::string_view view = text.view().substr(piece.begin, piece.end - piece.begin);
            const bool begins_with_one = view.starts_with(' ') || view.starts_with(marker_);
            if (!begins_with_one && wants_marker(text, piece)) {
                writer.replace(piece.begin, piece.begin, marker_);
            }
            std::size_t kept = 0;
            for (std::size_t at = view.find(' '); at != std::string_view::npos;
                 at = view.find(' ', at + 1)) {
                const auto place = static_cast<std::uint32_t>(piece.begin + at);
                writer.keep(piece.begin + static_cast<std::uint32_t>(kept), place);
                writer.replace(place, place + 1, marker_);
                kept = at + 1;
            }
            writer.keep(piece.begin + static_cast<std::uint32_t>(kept), piece.end);
        });
        if (split_) split_->apply(text, pieces);
    }
    bool needs_origins() const override { return scheme_ == PrependScheme::kFirst; }

  private:
    bool wants_marker(const Text& text, const Piece& piece) const {
        if (scheme_ != PrependScheme::kFirst) return scheme_ == PrependScheme::kAlways;
        return text.origin(piece.begin, piece.end).begin == 0;
    }

    std::string marker_;
    PrependScheme scheme_;
    std::unique_ptr<PreTokenizerStep> split_;
};

class ClassMatcher : public Matcher {
  public:
    explicit ClassMatcher(std::uint8_t classes) : classes_(classes) {}
    void find(std::string_view text, std::vector<Range>& matches) const override {
        const std::uint8_t* table = char_classes();
        for (std::uint32_t at = 0; at < text.size();) {
            const DecodedChar c = decode_char(text.data() + at);
            if (table[c.code] & classes_) matches.push_back({at, at + c.bytes});
            at += c.bytes;
        }
    }

  private:
    std::uint8_t classes_;
};

class WordOrSymbolMatcher : public Matcher {
  public:
    void find(std::string_view text, std::vector<Range>& matches) const override {
        std::uint8_t run = kSpace;
        for (std::uint32_t at = 0; at < text.size();) {
            const DecodedChar c = decode_char(text.data() + at);
            const std::uint8_t kind = classes_of(c.code) & kWord    ? kWord
                                      : classes_of(c.code) & kSpace ? kSpace
                                                                    : kPunctuation;
            if (kind != kSpace) {
                if (kind == run) {
                    matches.back().end = at + c.bytes;
                } else {
                    matches.push_back({at, at + c.bytes});
                }
            }
            run = kind;
            at += c.bytes;
        }
    }
};

}  // namespace

std::unique_ptr<PreTokenizerStep> make_split(std::unique_ptr<Matcher> matcher,
                                             SplitBehavior behavior, bool invert) {
    return std::make_unique<SplitStep>(std::move(matcher), behavior, invert);
}
std::unique_ptr<PreTokenizerStep> make_add_prefix_space() {
    return std::make_unique<AddPrefixSpaceStep>();
}
std::unique_ptr<PreTokenizerStep> make_byte_spelling() {
    return std::make_unique<ByteSpellingStep>();
}
std::unique_ptr<PreTokenizerStep> make_metaspace(std::string marker, PrependScheme scheme,
                                                 bool split) {
    return std::make_unique<MetaspaceStep>(std::move(marker), scheme, split);
}
std::unique_ptr<PreTokenizerStep> make_cut_before(std::string marker,
                                                  const std::vector<std::string>& across) {
    return std::make_unique<CutBeforeStep>(std::move(marker), across);
}
std::unique_ptr<Matcher> make_class_matcher(std::uint8_t classes) {
    return std::make_unique<ClassMatcher>(classes);
}
std::unique_ptr<Matcher> make_word_or_symbol_matcher() {
    return std::make_unique<WordOrSymbolMatcher>();
}

}  // namespace qshard::tok
