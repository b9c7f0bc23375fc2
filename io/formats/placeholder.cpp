#include "io/formats/placeholder.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace qshard {
namespace {

struct Placeholder {
    std::string_view begin;  ///< in lower case
    std::string_view what, advice;
};

constexpr std::string_view kPage =
    "a web page, not the file: what was downloaded is an error or a "
    "login page";
constexpr std::string_view kDownload =
    "Download it again (hf download OWNER/NAME --local-dir FOLDER; gated models want hf auth login "
    "first).";
constexpr std::array<Placeholder, 7> kPlaceholders = {{
    {"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself",
     "Run git lfs install and git lfs pull in that folder, or download it with hf download "
     "OWNER/NAME --local-dir FOLDER."},
    {"version https://hawser.github.com/spec/", "an old Git LFS pointer, not the file itself",
     "Run git lfs pull in that folder."},
    {"# xet version", "a Xet pointer, not the file itself", kDownload},
    {"/annex/objects/", "a git-annex pointer, not the file itself", "Run git annex get on it."},
    {"<!doctype html", kPage, kDownload},
    {"<html", kPage, kDownload},
    {"entry not found", "the Hub's answer for a file that is not there", kDownload},
}};

}  // namespace

void refuse_placeholder(std::string_view begin, const std::string& name) {
    begin.remove_prefix(std::min(begin.find_first_not_of(" \t\r\n"), begin.size()));
    const auto is_at_begin = [&](const Placeholder& known) {
        return begin.size() >= known.begin.size() &&
               std::equal(known.begin.begin(), known.begin.end(), begin.begin(),
                          [](char lower, char c) {
                              return lower == (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
                          });
    };
    const auto found = std::ranges::find_if(kPlaceholders, is_at_begin);
    if (found == kPlaceholders.end()) return;
    throw UserError(fmt::format("{} is {}\n{}", name, found->what, found->advice));
}

}  // namespace qshard
