#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qshard::tok {

/// Input bytes [begin, end).
struct Origin {
    std::uint32_t begin, end;
};

/// A part of a text: bytes [begin, end). With `id` set it is an added token, which no later stage
/// touches.
struct Piece {
    std::uint32_t begin, end;
    std::int32_t id = -1;
};

/// A segment of the input on its way through normalizer and pre-tokenizer, with the origin of each
/// of its bytes. It views the input until the first stage that changes it; origins of changed text
/// are kept only if asked for.
class Text {
  public:
    /// `base` is the offset of `source` in the input. `source` must outlive the text.
    Text(std::string_view source, std::uint32_t base, bool track)
        : source_(source), base_(base), track_(track) {}

    std::string_view view() const { return changed_ ? std::string_view(storage_) : source_; }
    std::uint32_t base() const { return base_; }
    bool tracked() const { return track_ || !changed_; }
    /// Union of the origins of bytes [begin, end); BugError unless tracked(). An empty range is an
    /// empty span at its place.
    Origin origin(std::uint32_t begin, std::uint32_t end) const;

  private:
    friend class Rewriter;
    std::string_view source_;
    std::uint32_t base_;
    bool track_, changed_ = false;
    std::string storage_;
    std::vector<Origin> origins_;
};

/// Builds the next version of a text from left to right.
class Rewriter {
  public:
    explicit Rewriter(Text& text);
    /// Copies bytes [begin, end) of the old version with their origins.
    void keep(std::uint32_t begin, std::uint32_t end);
    /// Writes `with` in place of bytes [begin, end) of the old version; each new byte has the
    /// origin of the whole range.
    void replace(std::uint32_t begin, std::uint32_t end, std::string_view with);
    std::uint32_t bytes() const { return static_cast<std::uint32_t>(next_.size()); }
    /// Makes what was written the text.
    void finish();

  private:
    Text& text_;
    std::string next_;
    std::vector<Origin> origins_;
};

}  // namespace qshard::tok
