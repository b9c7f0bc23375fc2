#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Guessing what a misspelt word was meant to be.
namespace qshard {

/// Letters to insert, remove, change or swap with their neighbour to make `b` of `a`.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The known word that `word` is most likely a misspelling of. Nothing unless it is near: one
/// change in a short word, up to a third of the letters of a longer one. Case, '-' and '_' do not
/// count.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& known);

/// "; did you mean X?", or nothing.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& known);

}  // namespace qshard
