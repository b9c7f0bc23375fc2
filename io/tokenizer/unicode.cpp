#include "io/tokenizer/unicode.h"

#include <utf8proc.h>

#include <array>
#include <vector>

#include "io/tokenizer/unicode_versions.h"

namespace qshard::tok {
namespace {

bool is_white_space(char32_t c) {
    return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

// Other_Alphabetic that is neither mark nor letter, and Join_Control: they count as \w in Rust.
bool is_extra_word(char32_t c) {
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
           c == 0x200D;
}

std::uint8_t classify(char32_t c) {
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    const auto within = [category](int first, int last) {
        return category >= first && category <= last;
    };
    std::uint8_t bits = is_white_space(c) ? kSpace : 0;
    if (within(UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO)) bits |= kLetter | kWord;
    if (within(UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME)) bits |= kMark | kWord;
    if (within(UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO)) bits |= kNumber;
    if (within(UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NL)) bits |= kWord;
    if (within(UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO)) bits |= kPunctuation;
    if (in_ranges(kNewLetters, c)) bits |= kLetter | kWord;
    if (in_ranges(kNewNumbers, c)) bits |= kNumber | kWord;
    if (in_ranges(kNewMarks, c)) bits |= kMark | kWord;
    if (category == UTF8PROC_CATEGORY_PC || is_extra_word(c)) bits |= kWord;
    if (c < 0x80 && within(UTF8PROC_CATEGORY_SM, UTF8PROC_CATEGORY_SO)) bits |= kPunctuation;
    return bits;
}

struct ByteAlphabet {
    std::array<char32_t, 256> chars{};
    std::array<int, 0x144> bytes{};
    ByteAlphabet() {
        bytes.fill(-1);
        char32_t next = 0x100;
        for (int b = 0; b < 256; ++b) {
            const bool printable =
                (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
            chars[b] = printable ? static_cast<char32_t>(b) : next++;
            bytes[chars[b]] = b;
        }
    }
};

const ByteAlphabet& byte_alphabet() {
    static const ByteAlphabet alphabet;
    return alphabet;
}

// Bytes of the valid character at p, or minus the bytes of the maximal invalid subpart (Unicode 15,
// table 3-7).
int check_char(const unsigned char* p, std::size_t available) {
    const unsigned lead = p[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    unsigned low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (int i = 1; i < length; ++i) {
        if (static_cast<std::size_t>(i) >= available || p[i] < low || p[i] > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

}  // namespace

const std::uint8_t* char_classes() {
    static const std::vector<std::uint8_t> table = [] {
        std::vector<std::uint8_t> bits(0x110000);
        for (char32_t c = 0; c < bits.size(); ++c) bits[c] = classify(c);
        return bits;
    }();
    return table.data();
}

std::uint8_t classes_of_last(std::string_view text) {
    if (text.empty()) return 0;
    std::size_t at = text.size() - 1;
    while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    return classes_of(decode_char(text.data() + at).code);
}

std::size_t valid_utf8_prefix(std::string_view text) {
    const auto* p = reinterpret_cast<const unsigned char*>(text.data());
    for (std::size_t at = 0; at < text.size();) {
        const int bytes = check_char(p + at, text.size() - at);
        if (bytes < 0) return at;
        at += static_cast<std::size_t>(bytes);
    }
    return text.size();
}

std::string to_valid_utf8(std::string_view bytes) {
    std::string out;
    while (true) {
        const std::size_t valid = valid_utf8_prefix(bytes);
        out.append(bytes.substr(0, valid));
        bytes.remove_prefix(valid);
        if (bytes.empty()) return out;
        out += "\uFFFD";
        bytes.remove_prefix(static_cast<std::size_t>(
            -check_char(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size())));
    }
}

void append_utf8(std::string& out, char32_t code) {
    const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            put(0xE0 | code >> 12);
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 0x3F));
        }
        put(0x80 | (code >> 6 & 0x3F));
    }
    put(0x80 | (code & 0x3F));
}

char32_t byte_to_char(unsigned char byte) {
    return byte_alphabet().chars[byte];
}

int char_to_byte(char32_t code) {
    return code < byte_alphabet().bytes.size() ? byte_alphabet().bytes[code] : -1;
}

}  // namespace qshard::tok
