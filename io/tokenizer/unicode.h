#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// UTF-8 and character classes. Categories are utf8proc's (Unicode 15).
namespace qshard::tok {

enum CharClass : std::uint8_t {
    kLetter = 1,        ///< \p{L}
    kNumber = 2,        ///< \p{N}
    kSpace = 4,         ///< White_Space
    kMark = 8,          ///< \p{M}
    kPunctuation = 16,  ///< \p{P} and the ASCII symbols
    kWord = 32,         ///< \w of Rust's regex crate
};

struct DecodedChar {
    char32_t code;
    std::uint32_t bytes;
};

/// The character that starts at `p`, which must be valid UTF-8.
inline DecodedChar decode_char(const char* p) {
    const auto byte = [p](int i) {
        return static_cast<char32_t>(static_cast<unsigned char>(p[i]));
    };
    const char32_t lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
    if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
    return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F),
            4};
}

/// 0x110000 sets of CharClass bits.
const std::uint8_t* char_classes();
inline std::uint8_t classes_of(char32_t code) {
    return char_classes()[code];
}
/// The classes of the last character of `text`; 0 if empty.
std::uint8_t classes_of_last(std::string_view text);

/// Length of the valid prefix: text.size() if all of it is UTF-8.
std::size_t valid_utf8_prefix(std::string_view text);
/// Replaces every maximal invalid subpart by U+FFFD.
std::string to_valid_utf8(std::string_view bytes);
void append_utf8(std::string& out, char32_t code);

/// GPT-2's byte alphabet: the printable character that stands for a byte, and back (-1 if the
/// character is not in it).
char32_t byte_to_char(unsigned char byte);
int char_to_byte(char32_t code);

}  // namespace qshard::tok
