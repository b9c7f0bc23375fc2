#include "io/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/unicode_versions.h"

namespace qshard::tok {
namespace {

bool is_ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return static_cast<signed char>(c) >= 0; });
}

// Rewrites the characters that `change` maps to something else: it returns false to keep one, else
// fills its argument.
template <class Change>
void rewrite_chars(Text& text, Change change) {
    const std::string_view view = text.view();
    Rewriter writer(text);
    std::string with;
    std::uint32_t kept = 0, at = 0;
    while (at < view.size()) {
        const DecodedChar c = decode_char(view.data() + at);
        with.clear();
        if (change(c.code, with)) {
            writer.keep(kept, at);
            writer.replace(at, at + c.bytes, with);
            kept = at + c.bytes;
        }
        at += c.bytes;
    }
    writer.keep(kept, at);
    writer.finish();
}

// Normalizes cluster by cluster, a cluster being what can interact: origins stay as fine as that.
class UnicodeStep : public NormalizerStep {
  public:
    explicit UnicodeStep(UnicodeForm form) : form_(form) {}

    void apply(Text& text) const override {
        const std::string_view view = text.view();
        if (is_ascii(view)) return;
        Rewriter writer(text);
        std::string normal;
        std::uint32_t kept = 0;
        for (std::uint32_t at = 0; at < view.size();) {
            bool stable = true;
            const std::uint32_t end = cluster_end(view, at, stable);
            if (!stable) {
                normal = normalize(view.substr(at, end - at));
                if (normal != view.substr(at, end - at)) {
                    writer.keep(kept, at);
                    writer.replace(at, end, normal);
                    kept = end;
                }
            }
            at = end;
        }
        writer.keep(kept, static_cast<std::uint32_t>(view.size()));
        writer.finish();
    }

  private:
    bool is_compatibility() const {
        return form_ == UnicodeForm::kNfkc || form_ == UnicodeForm::kNfkd;
    }
    bool composes() const { return form_ == UnicodeForm::kNfc || form_ == UnicodeForm::kNfkc; }

    // Clears `stable` unless the cluster is known to be its own normal form.
    std::uint32_t cluster_end(std::string_view text, std::uint32_t at, bool& stable) const {
        DecodedChar c = decode_char(text.data() + at);
        at += c.bytes;
        if (in_ranges(kUnknownToNormalizer, c.code)) return at;
        stable = is_stable(c.code);
        for (; at < text.size(); at += c.bytes) {
            c = decode_char(text.data() + at);
            if (!joins_previous(c.code)) break;
            stable = false;
        }
        return at;
    }

    // Whether the character may combine with or be reordered before what precedes it, directly or
    // once decomposed.
    bool joins_previous(char32_t c) const {
        if (c < 0x300 || in_ranges(kUnknownToNormalizer, c)) return false;
        if (c >= 0x1160 && c <= 0x11FF) return true;  // Hangul vowels and finals
        if (is_compatibility() && ((c >= 0x3131 && c <= 0x318E) || (c >= 0xFF9E && c <= 0xFFDC)))
            return true;
        return (classes_of(c) & kMark) ||
               utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class != 0;
    }

    // Whether the character alone is its own normal form, as far as is known cheaply.
    bool is_stable(char32_t c) const {
        if (c < 0x80) return true;
        if (form_ == UnicodeForm::kNfc && c >= 0xC0 && c < 0x250) return true;
        if (!composes() && c >= 0xAC00 && c <= 0xD7A3) return false;  // Hangul, decomposed by rule
        return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->decomp_seqindex ==
               UINT16_MAX;
    }

    std::string normalize(std::string_view cluster) const {
        int options = UTF8PROC_STABLE | (composes() ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
        if (is_compatibility()) options |= UTF8PROC_COMPAT;
        utf8proc_uint8_t* result = nullptr;
        const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(cluster.data()),
                                        static_cast<utf8proc_ssize_t>(cluster.size()), &result,
                                        static_cast<utf8proc_option_t>(options));
        if (bytes < 0)
            throw SystemError(fmt::format("Unicode normalization: {}", utf8proc_errmsg(bytes)));
        const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(result, std::free);
        return {reinterpret_cast<const char*>(result), static_cast<std::size_t>(bytes)};
    }

    UnicodeForm form_;
};

class LowercaseStep : public NormalizerStep {
  public:
    void apply(Text& text) const override {
        rewrite_chars(text, [](char32_t c, std::string& with) {
            const auto lower =
                static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
            if (lower == c) return false;
            append_utf8(with, lower);
            if (c == 0x130) with = "i\u0307";  // the one character whose lower case is two
            return true;
        });
    }
};

class StripStep : public NormalizerStep {
  public:
    StripStep(bool left, bool right) : left_(left), right_(right) {}
    void apply(Text& text) const override {
        const std::string_view view = text.view();
        std::size_t begin = 0, end = 0;
        bool seen = false;
        for (std::size_t at = 0; at < view.size();) {
            const DecodedChar c = decode_char(view.data() + at);
            if (!(classes_of(c.code) & kSpace)) {
                if (!seen) begin = at;
                seen = true;
                end = at + c.bytes;
            }
            at += c.bytes;
        }
        Rewriter writer(text);
        if (seen) {
            writer.keep(left_ ? static_cast<std::uint32_t>(begin) : 0,
                        static_cast<std::uint32_t>(right_ ? end : view.size()));
        } else if (!left_ && !right_) {
            writer.keep(0, static_cast<std::uint32_t>(view.size()));
        }
        writer.finish();
    }

  private:
    bool left_, right_;
};

class StripAccentsStep : public NormalizerStep {
  public:
    void apply(Text& text) const override {
        rewrite_chars(text, [](char32_t c, std::string&) { return (classes_of(c) & kMark) != 0; });
    }
};

class ReplaceStep : public NormalizerStep {
  public:
    ReplaceStep(std::unique_ptr<Matcher> matcher, std::string content)
        : matcher_(std::move(matcher)), content_(std::move(content)) {}
    void apply(Text& text) const override {
        std::vector<Range> matches;
        matcher_->find(text.view(), matches);
        if (matches.empty()) return;
        Rewriter writer(text);
        std::uint32_t kept = 0;
        for (const Range& match : matches) {
            writer.keep(kept, match.begin);
            writer.replace(match.begin, match.end, content_);
            kept = match.end;
        }
        writer.keep(kept, static_cast<std::uint32_t>(text.view().size()));
        writer.finish();
    }

  private:
    std::unique_ptr<Matcher> matcher_;
    std::string content_;
};

class PrependStep : public NormalizerStep {
  public:
    explicit PrependStep(std::string content) : content_(std::move(content)) {}
    void apply(Text& text) const override {
        if (text.view().empty()) return;
        Rewriter writer(text);
        writer.replace(0, 0, content_);
        writer.keep(0, static_cast<std::uint32_t>(text.view().size()));
        writer.finish();
    }

  private:
    std::string content_;
};

}  // namespace

std::unique_ptr<NormalizerStep> make_unicode_form(UnicodeForm form) {
    return std::make_unique<UnicodeStep>(form);
}
std::unique_ptr<NormalizerStep> make_lowercase() {
    return std::make_unique<LowercaseStep>();
}
std::unique_ptr<NormalizerStep> make_strip(bool left, bool right) {
    return std::make_unique<StripStep>(left, right);
}
std::unique_ptr<NormalizerStep> make_strip_accents() {
    return std::make_unique<StripAccentsStep>();
}
std::unique_ptr<NormalizerStep> make_replace(std::unique_ptr<Matcher> matcher,
                                             std::string content) {
    return std::make_unique<ReplaceStep>(std::move(matcher), std::move(content));
}
std::unique_ptr<NormalizerStep> make_prepend(std::string content) {
    return std::make_unique<PrependStep>(std::move(content));
}

}  // namespace qshard::tok
