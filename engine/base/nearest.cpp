#include "base/nearest.h"

#include <algorithm>
#include <cctype>
#include <numeric>

namespace qshard {
namespace {

/// Lower case, without what people confuse: '-' and '_'.
std::string folded(std::string_view word) {
    std::string text;
    for (const char c : word) {
        if (c != '-' && c != '_')
            text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    return text;
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
    std::iota(row.begin(), row.end(), 0u);
    for (std::size_t i = 1; i <= a.size(); ++i) {
        next[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t change = row[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            next[j] = std::min({row[j] + 1, next[j - 1] + 1, change});
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) next[j] = std::min(next[j], before[j - 2] + 1);
        }
        before.swap(row);
        row.swap(next);
    }
    return row.back();
}

std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& known) {
    const std::string mine = folded(word);
    std::optional<std::string> best;
    std::size_t least = std::max<std::size_t>(1, mine.size() / 3) + 1;
    for (const std::string& candidate : known) {
        const std::size_t distance = edit_distance(mine, folded(candidate));
        if (distance < least) {
            least = distance;
            best = candidate;
        }
    }
    // Of one or two letters, half are changed by one change.
    if (least > 0 && mine.size() < 3) return std::nullopt;
    return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& known) {
    const auto meant = nearest(word, known);
    return meant ? "; did you mean " + *meant + "?" : std::string();
}

}  // namespace qshard
