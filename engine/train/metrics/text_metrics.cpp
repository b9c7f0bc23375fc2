#include "train/metrics/text_metrics.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace qshard {

namespace {

constexpr std::string_view kBlanks = " \t\n\r\f\v";

struct Token {
    std::string_view text;
    bool is_tag;
    bool operator==(const Token& other) const { return text == other.text; }
};
using Tokens = std::vector<Token>;

bool is_capital(char c) {
    return c >= 'A' && c <= 'Z';
}

/// Bytes of the tag that text begins with, 0 if it begins with none.
std::size_t tag_bytes(std::string_view text) {
    if (text.size() < 3 || text[0] != '[' || !is_capital(text[1])) return 0;
    std::size_t at = 2;
    while (at < text.size() &&
           (is_capital(text[at]) || text[at] == '_' || (text[at] >= '0' && text[at] <= '9'))) {
        ++at;
    }
    return at < text.size() && text[at] == ']' ? at + 1 : 0;
}

Tokens cut(std::string_view text) {
    Tokens tokens;
    std::size_t at = 0;
    while ((at = text.find_first_not_of(kBlanks, at)) != text.npos) {
        if (const std::size_t bytes = tag_bytes(text.substr(at)); bytes > 0) {
            tokens.push_back({text.substr(at, bytes), true});
            at += bytes;
            continue;
        }
        std::size_t end = at + 1;
        while (end < text.size() && kBlanks.find(text[end]) == kBlanks.npos &&
               tag_bytes(text.substr(end)) == 0) {
            ++end;
        }
        tokens.push_back({text.substr(at, end - at), false});
        at = end;
    }
    return tokens;
}

std::string kind_of(const Token& tag) {
    return std::string(tag.text.substr(1, tag.text.size() - 2));
}

/// Length of a common subsequence first, tags in it second.
struct Weight {
    std::int64_t length = 0;
    std::int64_t tags = 0;
    auto operator<=>(const Weight&) const = default;
};

enum Move : unsigned char { kPair, kSkipLeft, kSkipRight };

/// Marks the tokens of left and right that the alignment pairs. Suffix tables, so that the walk
/// goes forward.
void align(const Tokens& left, const Tokens& right, std::vector<bool>& left_paired,
           std::vector<bool>& right_paired) {
    const std::size_t rows = left.size(), columns = right.size();
    std::vector<unsigned char> moves(rows * columns);
    std::vector<Weight> below(columns + 1), here(columns + 1);
    for (std::size_t i = rows; i-- > 0;) {
        here[columns] = {};
        for (std::size_t j = columns; j-- > 0;) {
            Weight best = below[j];
            unsigned char move = kSkipLeft;
            if (here[j + 1] > best) {
                best = here[j + 1];
                move = kSkipRight;
            }
            if (left[i] == right[j]) {
                const Weight paired = {below[j + 1].length + 1, below[j + 1].tags + left[i].is_tag};
                if (paired >= best) {
                    best = paired;
                    move = kPair;
                }
            }
            here[j] = best;
            moves[i * columns + j] = move;
        }
        std::swap(below, here);
    }
    for (std::size_t i = 0, j = 0; i < rows && j < columns;) {
        const unsigned char move = moves[i * columns + j];
        if (move == kPair) left_paired[i] = right_paired[j] = true;
        i += move != kSkipRight;
        j += move != kSkipLeft;
    }
}

}  // namespace

bool exact_match(std::string_view prediction, std::string_view reference) {
    const auto trimmed = [](std::string_view text) {
        const std::size_t first = text.find_first_not_of(kBlanks);
        if (first == text.npos) return std::string_view();
        return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
    };
    return trimmed(prediction) == trimmed(reference);
}

MaskCount& MaskCount::operator+=(const MaskCount& other) {
    hits += other.hits;
    misses += other.misses;
    false_alarms += other.false_alarms;
    return *this;
}

namespace {

double ratio(std::int64_t part, std::int64_t whole) {
    return whole == 0 ? 1.0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double MaskCount::recall() const {
    return ratio(hits, hits + misses);
}
double MaskCount::precision() const {
    return ratio(hits, hits + false_alarms);
}
double MaskCount::f1() const {
    return ratio(2 * hits, 2 * hits + misses + false_alarms);
}

void add_mask_scores(std::string_view prediction, std::string_view reference, MaskScores& scores) {
    Tokens found = cut(prediction), wanted = cut(reference);
    const auto count_equal_ends = [&scores](const Token& token) {
        if (token.is_tag) ++scores[kind_of(token)].hits;
    };
    // Equal ends belong to some best alignment: cutting them keeps the table small for nearly right
    // answers.
    std::size_t front = 0;
    while (front < found.size() && front < wanted.size() && found[front] == wanted[front]) {
        count_equal_ends(found[front++]);
    }
    found.erase(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(front));
    wanted.erase(wanted.begin(), wanted.begin() + static_cast<std::ptrdiff_t>(front));
    while (!found.empty() && !wanted.empty() && found.back() == wanted.back()) {
        count_equal_ends(found.back());
        found.pop_back();
        wanted.pop_back();
    }
    std::vector<bool> found_paired(found.size()), wanted_paired(wanted.size());
    align(found, wanted, found_paired, wanted_paired);
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i].is_tag && !found_paired[i]) ++scores[kind_of(found[i])].false_alarms;
    }
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        if (!wanted[i].is_tag) continue;
        MaskCount& count = scores[kind_of(wanted[i])];
        ++(wanted_paired[i] ? count.hits : count.misses);
    }
}

MaskCount total(const MaskScores& scores) {
    MaskCount sum;
    for (const auto& [kind, count] : scores) sum += count;
    return sum;
}

}  // namespace qshard
