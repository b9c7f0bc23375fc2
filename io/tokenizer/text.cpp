#include "io/tokenizer/text.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace qshard::tok {

Origin Text::origin(std::uint32_t begin, std::uint32_t end) const {
    check(tracked(), "origins were not tracked");
    if (!changed_) return {base_ + begin, base_ + end};
    if (begin >= end) {
        if (begin < origins_.size()) return {origins_[begin].begin, origins_[begin].begin};
        const std::uint32_t last = origins_.empty() ? base_ : origins_.back().end;
        return {last, last};
    }
    Origin whole = origins_[begin];
    for (std::uint32_t i = begin + 1; i < end; ++i) {
        whole.begin = std::min(whole.begin, origins_[i].begin);
        whole.end = std::max(whole.end, origins_[i].end);
    }
    return whole;
}

Rewriter::Rewriter(Text& text) : text_(text) {
    next_.reserve(text.view().size() * 5 / 4 + 8);
}

void Rewriter::keep(std::uint32_t begin, std::uint32_t end) {
    next_.append(text_.view().substr(begin, end - begin));
    if (!text_.track_) return;
    if (text_.changed_) {
        origins_.insert(origins_.end(), text_.origins_.begin() + begin,
                        text_.origins_.begin() + end);
        return;
    }
    for (std::uint32_t i = begin; i < end; ++i) {
        origins_.push_back({text_.base_ + i, text_.base_ + i + 1});
    }
}

void Rewriter::replace(std::uint32_t begin, std::uint32_t end, std::string_view with) {
    next_.append(with);
    if (text_.track_) origins_.insert(origins_.end(), with.size(), text_.origin(begin, end));
}

void Rewriter::finish() {
    text_.storage_ = std::move(next_);
    text_.origins_ = std::move(origins_);
    text_.changed_ = true;
}

}  // namespace qshard::tok
