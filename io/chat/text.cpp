#include "io/chat/text.h"

#include <fmt/format.h>
#include <string.h>
#include <utf8proc.h>

#include <algorithm>
#include <utility>

namespace qshard::jinja {
namespace {

bool is_continuation(char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

utf8proc_category_t category(char32_t c) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

char32_t to_upper(char32_t c) {
    return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}

char32_t to_lower(char32_t c) {
    return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_printable(char32_t c) {
    if (c == U' ') return true;
    switch (category(c)) {
        case UTF8PROC_CATEGORY_CN:
        case UTF8PROC_CATEGORY_CC:
        case UTF8PROC_CATEGORY_CF:
        case UTF8PROC_CATEGORY_CS:
        case UTF8PROC_CATEGORY_CO:
        case UTF8PROC_CATEGORY_ZL:
        case UTF8PROC_CATEGORY_ZP:
        case UTF8PROC_CATEGORY_ZS:
            return false;
        default:
            return true;
    }
}

/// Upper-cases where `starts_word(previous)` holds and lower-cases elsewhere; previous is 0 at the
/// start.
/// `sharp` is what an upper-cased ß becomes, the one common letter whose upper case is two.
template <class Predicate>
std::string map_case(std::string_view text, Predicate starts_word, const char* sharp = "Ss") {
    std::string out;
    char32_t previous = 0;
    for (std::size_t i = 0; i < text.size();) {
        const char32_t c = next_code_point(text, i);
        const bool raised = starts_word(previous);
        if (raised && c == U'ß') {
            out += sharp;
        } else {
            append_utf8(out, raised ? to_upper(c) : to_lower(c));
        }
        previous = c;
    }
    return out;
}

}  // namespace

bool valid_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        if (static_cast<unsigned char>(text[i]) < 0x80) {
            ++i;
            continue;
        }
        utf8proc_int32_t c = 0;
        const auto bytes = utf8proc_iterate(
            reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
            static_cast<utf8proc_ssize_t>(std::min<std::size_t>(4, text.size() - i)), &c);
        if (bytes <= 0) return false;
        i += static_cast<std::size_t>(bytes);
    }
    return true;
}

void append_utf8(std::string& out, char32_t c) {
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | (c >> 6));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | (c >> 12));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | (c >> 18));
        out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    }
}

char32_t next_code_point(std::string_view text, std::size_t& position) {
    const auto lead = static_cast<unsigned char>(text[position]);
    if (lead < 0x80) {
        ++position;
        return lead;
    }
    utf8proc_int32_t c = 0;
    const auto bytes = utf8proc_iterate(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position,
        static_cast<utf8proc_ssize_t>(std::min<std::size_t>(4, text.size() - position)), &c);
    if (bytes <= 0) {
        ++position;
        return 0xFFFD;
    }
    position += static_cast<std::size_t>(bytes);
    return static_cast<char32_t>(c);
}

std::int64_t count_code_points(std::string_view text) {
    return std::count_if(text.begin(), text.end(),
                         [](char byte) { return !is_continuation(byte); });
}

std::vector<std::size_t> code_point_offsets(std::string_view text) {
    std::vector<std::size_t> offsets;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (!is_continuation(text[i])) offsets.push_back(i);
    }
    offsets.push_back(text.size());
    return offsets;
}

bool is_space(char32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

std::string_view strip(std::string_view text, std::optional<std::string_view> chars, bool left,
                       bool right) {
    std::u32string set;
    for (std::size_t i = 0; chars && i < chars->size();) set += next_code_point(*chars, i);
    const auto removable = [&](char32_t c) {
        return chars ? set.find(c) != std::u32string::npos : is_space(c);
    };
    while (left && !text.empty()) {
        std::size_t next = 0;
        if (!removable(next_code_point(text, next))) break;
        text.remove_prefix(next);
    }
    while (right && !text.empty()) {
        std::size_t last = text.size() - 1;
        while (last > 0 && is_continuation(text[last])) --last;
        std::size_t next = last;
        if (!removable(next_code_point(text, next))) break;
        text.remove_suffix(text.size() - last);
    }
    return text;
}

std::string upper(std::string_view text) {
    return map_case(
        text, [](char32_t) { return true; }, "SS");
}

std::string lower(std::string_view text) {
    return map_case(text, [](char32_t) { return false; });
}

std::string capitalize(std::string_view text) {
    bool first = true;
    return map_case(text, [&](char32_t) { return std::exchange(first, false); });
}

std::string title_filter(std::string_view text) {
    return map_case(text, [](char32_t previous) {
        return previous == 0 || is_space(previous) ||
               std::u32string_view(U"-([{<").find(previous) != std::u32string_view::npos;
    });
}

std::string title_method(std::string_view text) {
    return map_case(text, [](char32_t previous) { return previous == 0 || !is_letter(previous); });
}

bool is_letter(char32_t c) {
    const auto kind = category(c);
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

std::size_t find_text(std::string_view text, std::string_view needle, std::size_t from) {
    if (from > text.size()) return std::string_view::npos;
    if (needle.empty()) return from;
    const void* hit = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
    if (hit == nullptr) return std::string_view::npos;
    return static_cast<std::size_t>(static_cast<const char*>(hit) - text.data());
}

namespace {

std::vector<std::string> split_space(std::string_view text, std::int64_t max_splits,
                                     bool from_right) {
    std::vector<std::string> parts;
    text = strip(text, std::nullopt, true, true);
    while (!text.empty()) {
        if (max_splits >= 0 && static_cast<std::int64_t>(parts.size()) == max_splits) {
            parts.emplace_back(text);
            break;
        }
        std::size_t cut = from_right ? 0 : text.size(), resume = cut;
        bool found = false;
        for (std::size_t i = 0; i < text.size();) {
            const std::size_t begin = i;
            if (!is_space(next_code_point(text, i))) continue;
            // Forward: the first space ends the word. From the right: the last one begins it.
            found = true;
            cut = begin;
            resume = i;
            if (!from_right) break;
        }
        if (!found) {
            parts.emplace_back(text);
            break;
        }
        parts.emplace_back(from_right ? text.substr(resume) : text.substr(0, cut));
        text = from_right ? strip(text.substr(0, cut), std::nullopt, false, true)
                          : strip(text.substr(resume), std::nullopt, true, false);
    }
    if (from_right) std::reverse(parts.begin(), parts.end());
    return parts;
}

}  // namespace

std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               std::int64_t max_splits, bool from_right) {
    if (!separator) return split_space(text, max_splits, from_right);
    std::vector<std::string> parts;
    while (max_splits < 0 || static_cast<std::int64_t>(parts.size()) < max_splits) {
        const std::size_t at = from_right ? text.rfind(*separator) : find_text(text, *separator);
        if (at == std::string_view::npos) break;
        const std::size_t after = at + separator->size();
        parts.emplace_back(from_right ? text.substr(after) : text.substr(0, at));
        text = from_right ? text.substr(0, at) : text.substr(after);
    }
    parts.emplace_back(text);
    if (from_right) std::reverse(parts.begin(), parts.end());
    return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
    std::vector<std::string> lines;
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size();) {
        const std::size_t end = i;
        const char32_t c = next_code_point(text, i);
        const bool breaks =
            (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
        if (!breaks) continue;
        if (c == U'\r' && i < text.size() && text[i] == '\n') ++i;
        lines.emplace_back(text.substr(begin, (keep_ends ? i : end) - begin));
        begin = i;
    }
    if (begin < text.size()) lines.emplace_back(text.substr(begin));
    return lines;
}

std::string replace(std::string_view text, std::string_view old, std::string_view replacement,
                    std::int64_t count) {
    std::string out;
    std::size_t position = 0;
    for (std::int64_t done = 0; count < 0 || done < count; ++done) {
        if (old.empty()) {
            out += replacement;
            if (position == text.size()) return out;
            const std::size_t begin = position;
            next_code_point(text, position);
            out += text.substr(begin, position - begin);
            continue;
        }
        const std::size_t at = find_text(text, old, position);
        if (at == std::string_view::npos) break;
        out += text.substr(position, at - position);
        out += replacement;
        position = at + old.size();
    }
    out += text.substr(position);
    return out;
}

std::string repr(std::string_view text) {
    const bool has_single = text.find('\'') != std::string_view::npos;
    const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
    std::string out(1, quote);
    for (std::size_t i = 0; i < text.size();) {
        const char32_t c = next_code_point(text, i);
        if (c == static_cast<char32_t>(quote) || c == U'\\') {
            out += '\\';
            out += static_cast<char>(c);
        } else if (c == U'\n') {
            out += "\\n";
        } else if (c == U'\r') {
            out += "\\r";
        } else if (c == U'\t') {
            out += "\\t";
        } else if (is_printable(c)) {
            append_utf8(out, c);
        } else {
            const auto code = static_cast<std::uint32_t>(c);
            out += code < 0x100     ? fmt::format("\\x{:02x}", code)
                   : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                                    : fmt::format("\\U{:08x}", code);
        }
    }
    return out + quote;
}

}  // namespace qshard::jinja
