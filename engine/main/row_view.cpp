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

std::string visible(std::string_view text, bool is_learnt, const RowViewStyle& style) {
    std::string out;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '\n') {
            out += is_learnt ? "\\n\n" : "\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (byte < 0x20 || byte == 0x7f) {
            out += fmt::format("\\x{:02x}", byte);
        } else if (!style.color && (c == '[' || c == ']')) {
            out += std::string("\\") + c;
        } else {
            out += c;
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
