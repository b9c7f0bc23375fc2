#include "main/row_view.h"

#include <fmt/format.h>

#include "main/progress.h"
#include "spec/batch.h"

namespace qshard {
namespace {

constexpr const char* kBegin = "  | ";
constexpr int kIndent = 4;

/// Whether the model learns to write token i: its label counts once shifted, so never the first.
bool learnt(const EncodedRow& row, std::size_t i) {
    return i > 0 && row.labels[i] != kIgnoreIndex;
}

/// Calls use(begin, end, learnt) for each run of tokens that are all learnt or all not.
template <class Use>
void for_each_run(const EncodedRow& row, Use&& use) {
    for (std::size_t begin = 0, end = 0; begin < row.ids.size(); begin = end) {
        end = begin + 1;
        while (end < row.ids.size() && learnt(row, end) == learnt(row, begin)) ++end;
        use(begin, end, learnt(row, begin));
    }
}

/// Bytes at the beginning of `text` that a terminal would obey instead of showing them: control
/// characters, line and paragraph separators, marks of direction and of no width. `code`: which.
std::size_t hidden_bytes(std::string_view text, unsigned& code) {
    const auto byte = [&](std::size_t i) -> unsigned {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
    };
    code = byte(0);
    if (code < 0x20 || code == 0x7f) return 1;
    if (code == 0xC2 && byte(1) < 0xA0) {  // U+0080 to U+009F
        code = byte(1);
        return 2;
    }
    if (code != 0xE2) return 0;
    code = 0x2000U | (byte(1) & 0x3FU) << 6U | (byte(2) & 0x3FU);
    const bool hidden = (code >= 0x200B && code <= 0x200F) || (code >= 0x2028 && code <= 0x202E) ||
                        (code >= 0x2060 && code <= 0x206F);
    return hidden ? 3 : 0;
}

std::string visible(std::string_view text, bool is_learnt, const RowViewStyle& style) {
    std::string out;
    for (std::size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
        unsigned code = 0;
        const char c = text[i];
        bytes = hidden_bytes(text.substr(i), code);
        if (c == '\n') {
            out += is_learnt ? "\\n\n" : "\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (bytes > 0) {
            out += fmt::format(fmt::runtime(code < 0x100 ? "\\x{:02x}" : "\\u{:04x}"), code);
        } else {
            // Of a backslash nobody could say whether it is the text's or this view's.
            if (c == '\\' || (!style.color && (c == '[' || c == ']'))) out += '\\';
            out += c;
            bytes = 1;
        }
    }
    return out;
}

std::string marked(const std::string& text, bool is_learnt, const RowViewStyle& style) {
    if (!is_learnt) return text;
    if (!style.color) return "[" + text + "]";
    // A terminal's colour ends with its line: the next begins with the frame.
    std::string out = "\x1b[32m";
    for (const char c : text) {
        if (c == '\n') {
            out += "\x1b[0m\n\x1b[32m";
        } else {
            out += c;
        }
    }
    return out + "\x1b[0m";
}

/// What tokens begin .. end - 1 add to the text before them: decoders treat the beginning of a text
/// differently, and a character may be spread over tokens.
std::string text_of(const EncodedRow& row, const DecodeTokens& decode, std::size_t begin,
                    std::size_t end) {
    const std::span<const std::int32_t> ids(row.ids);
    const std::string before = decode(ids.first(begin)), after = decode(ids.first(end));
    if (after.starts_with(before)) return after.substr(before.size());
    return decode(ids.subspan(begin, end - begin));
}

}  // namespace

std::string row_view(const EncodedRow& row, const DecodeTokens& decode, const RowViewStyle& style) {
    std::string text;
    for_each_run(row, [&](std::size_t begin, std::size_t end, bool is_learnt) {
        std::string run;
        if (style.ids) {
            for (std::size_t i = begin; i < end; ++i)
                run += fmt::format("{}{}", i == begin ? "" : " ", row.ids[i]);
        } else {
            run = visible(text_of(row, decode, begin, end), is_learnt, style);
        }
        text += (style.ids && begin > 0 ? " " : "") + marked(run, is_learnt, style);
    });
    std::string lines = kBegin;
    for (const char c : text) {
        lines += c;
        if (c == '\n') lines += kBegin;
    }
    return wrapped(lines + "\n", style.width, kIndent);
}

}  // namespace qshard
