#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

/// How an answer is compared with its reference text. Pure functions over UTF-8 text.
namespace qshard {

/// True if prediction equals reference but for ASCII blanks at both ends.
bool exact_match(std::string_view prediction, std::string_view reference);

/// What became of one kind of tag; ratios of nothing are 1 (nothing to find, nothing found
/// wrongly).
struct MaskCount {
    std::int64_t hits = 0;    ///< tags of the reference that the prediction has in the same place
    std::int64_t misses = 0;  ///< tags of the reference that it has not
    std::int64_t false_alarms = 0;  ///< tags of the prediction that the reference has not

    MaskCount& operator+=(const MaskCount& other);
    double recall() const;
    double precision() const;
    /// 2 * hits / (2 * hits + misses + false_alarms)
    double f1() const;
};

/// Counts by kind, in alphabetical order; a tag's kind is its name without brackets ("NAME").
using MaskScores = std::map<std::string, MaskCount, std::less<>>;

/// Adds the counts of one pair of texts to scores.
///
/// A tag is a bracketed run of capitals, digits and underscores that begins with a capital: [NAME].
/// Both texts are cut into tokens: a tag, or a longest run of other characters without ASCII blanks
/// ("[NAME]," is two tokens). The token sequences are aligned by a longest common subsequence;
/// among equally long ones, by one that pairs most tags. Paired tags are hits; unpaired ones are
/// misses in the reference and false alarms in the prediction. Time and memory are proportional to
/// the product of the token counts (a byte each), after equal ends are cut off.
void add_mask_scores(std::string_view prediction, std::string_view reference, MaskScores& scores);

/// All kinds together.
MaskCount total(const MaskScores& scores);

}  // namespace qshard
