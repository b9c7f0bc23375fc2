#include "main/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace qshard {
namespace {

constexpr double kLiveSeconds = 0.1;   ///< between redraws
constexpr double kPlainSeconds = 5.0;  ///< between plain lines

}  // namespace

TerminalStyle TerminalStyle::of_stderr(const std::string& color) {
    TerminalStyle style;
    const char* term = std::getenv("TERM");
    style.live = isatty(STDERR_FILENO) == 1 && (term == nullptr || std::string(term) != "dumb");
    const char* no_color = std::getenv("NO_COLOR");
    const bool wanted = style.live && (no_color == nullptr || *no_color == '\0');
    style.color = color == "always" || (color == "auto" && wanted);
    winsize size{};
    if (style.live && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40)
        style.width = size.ws_col;
    return style;
}

std::string human_seconds(double seconds) {
    const auto s = static_cast<std::int64_t>(std::max(0.0, seconds) + 0.5);
    if (s < 60) return fmt::format("{} s", s);
    if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
    return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

ProgressBar::ProgressBar(std::string title, std::int64_t total, TerminalStyle style, bool speaks)
    : title_(std::move(title)),
      total_(std::max<std::int64_t>(total, 1)),
      style_(style),
      speaks_(speaks) {}

ProgressBar::~ProgressBar() {
    finish();
}

void ProgressBar::start_at(std::int64_t done) {
    first_ = done;
    begin_ = std::chrono::steady_clock::now();
}

std::string ProgressBar::line(std::int64_t done, const std::string& facts) const {
    const double elapsed =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    std::string left;
    if (done >= total_) {
        left = human_seconds(elapsed);
    } else if (done > first_) {
        left = "ETA " + human_seconds(elapsed * static_cast<double>(total_ - done) /
                                      static_cast<double>(done - first_));
    }
    const auto percent = done * 100 / total_;
    if (!style_.live) return fmt::format("{} {:3}%  {}  {}", title_, percent, facts, left);
    constexpr std::int64_t kCells = 24;
    const auto filled = std::min(kCells, done * kCells / total_);
    std::string bar;
    for (std::int64_t i = 0; i < kCells; ++i) bar += i < filled ? "━" : "─";
    if (style_.color) bar = "\x1b[36m" + bar + "\x1b[0m";
    std::string text = fmt::format(" {:3}%  {}  {}", percent, facts, left);
    const std::size_t room =
        static_cast<std::size_t>(std::max(10, style_.width - 26 - static_cast<int>(title_.size())));
    if (text.size() > room) text.resize(room);
    return title_ + " " + bar + text;
}

void ProgressBar::update(std::int64_t done, const std::string& facts, bool always) {
    if (!speaks_) return;
    const auto now = std::chrono::steady_clock::now();
    const double since = std::chrono::duration<double>(now - shown_).count();
    if (!always && done < total_ && since < (style_.live ? kLiveSeconds : kPlainSeconds)) return;
    shown_ = now;
    const std::string text = line(done, facts);
    if (style_.live) {
        std::fprintf(stderr, "\r%s\x1b[K", text.c_str());
        open_ = true;
    } else {
        std::fprintf(stderr, "%s\n", text.c_str());
    }
    std::fflush(stderr);
}

void ProgressBar::message(const std::string& text) {
    if (!speaks_) return;
    std::fprintf(stderr, "%s%s\n", open_ ? "\r\x1b[K" : "", text.c_str());
    std::fflush(stderr);
    open_ = false;
}

void ProgressBar::finish() {
    if (open_) std::fprintf(stderr, "\n");
    open_ = false;
}

}  // namespace qshard
