#include "main/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace qshard {
namespace {

constexpr double kLiveSeconds = 0.1;   ///< between redraws
constexpr double kPlainSeconds = 5.0;  ///< between plain lines

}  // namespace

namespace {

TerminalStyle style_of(int descriptor, const std::string& color) {
    TerminalStyle style;
    const char* term = std::getenv("TERM");
    style.live = isatty(descriptor) == 1 && (term == nullptr || std::string(term) != "dumb");
    const char* no_color = std::getenv("NO_COLOR");
    const bool wanted = style.live && (no_color == nullptr || *no_color == '\0');
    style.color = color == "always" || (color == "auto" && wanted);
    if (const int width = terminal_width(descriptor); style.live && width > 0) style.width = width;
    return style;
}

}  // namespace

TerminalStyle TerminalStyle::of_stderr(const std::string& color) {
    return style_of(STDERR_FILENO, color);
}

TerminalStyle TerminalStyle::of_stdout(const std::string& color) {
    return style_of(STDOUT_FILENO, color);
}

int terminal_width(int descriptor) {
    winsize size{};
    if (isatty(descriptor) != 1 || ioctl(descriptor, TIOCGWINSZ, &size) != 0) return 0;
    return size.ws_col;
}

namespace {

/// Columns of UTF-8 text whose characters are one column wide.
int columns_of(std::string_view text) {
    return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
    }));
}

void wrap_line(std::string_view line, int width, int indent, std::string& out) {
    int column = 0;
    bool fresh = false;  // at the beginning of a line that goes on
    while (!line.empty()) {
        const std::size_t word = std::min(line.find_first_not_of(' '), line.size());
        const std::size_t end = std::min(line.find(' ', word), line.size());
        const int wide = columns_of(line.substr(0, end));
        if (column > 0 && !fresh && word < line.size() && column + wide > width) {
            out += "\n" + std::string(static_cast<std::size_t>(indent), ' ');
            column = indent;
            fresh = true;
            line.remove_prefix(word);
            continue;
        }
        out += line.substr(0, end);
        column += wide;
        fresh = false;
        line.remove_prefix(end);
    }
}

}  // namespace

std::string wrapped(const std::string& text, int width, int indent) {
    if (width <= 0) return text;
    indent = std::min(indent, width / 2);
    std::string out;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        wrap_line(std::string_view(text).substr(begin, end - begin), width, indent, out);
        if (end < text.size()) out += '\n';
        begin = end + 1;
    }
    return out;
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
    return live_line(done, facts, left);
}

/// Fits the terminal: facts go from the last on, then the bar gets shorter and goes; the share done
/// and the time left stay.
std::string ProgressBar::live_line(std::int64_t done, const std::string& facts,
                                   const std::string& left) const {
    constexpr int kMostCells = 24, kLeastCells = 6;
    const int room = style_.width - 1;  // some terminals go on in the next line at the last column
    const std::string percent = fmt::format("{:3}%", done * 100 / total_);
    std::string shown = facts;
    const auto needed = [&](int cells) {
        int columns = columns_of(title_) + 1 + columns_of(percent);
        if (cells > 0) columns += cells + 1;
        for (const std::string& part : {shown, left})
            columns += part.empty() ? 0 : 2 + columns_of(part);
        return columns;
    };
    while (!shown.empty() && needed(kLeastCells) > room) {
        const std::size_t last = shown.rfind("  ");
        shown.resize(last == std::string::npos ? 0 : last);
    }
    const int cells = std::clamp(kMostCells + room - needed(kMostCells), 0, kMostCells);
    std::string bar;
    if (cells >= kLeastCells) {
        const auto filled = std::min<std::int64_t>(cells, done * cells / total_);
        for (std::int64_t i = 0; i < cells; ++i) bar += i < filled ? "━" : "─";
        bar = (style_.color ? "\x1b[36m" + bar + "\x1b[0m" : bar) + " ";
    }
    std::string text = title_ + " " + bar + percent;
    for (const std::string& part : {shown, left}) text += part.empty() ? "" : "  " + part;
    return text;
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
    const std::string lines = wrapped(text, style_.live ? style_.width : 0, 2);
    std::fprintf(stderr, "%s%s\n", open_ ? "\r\x1b[K" : "", lines.c_str());
    std::fflush(stderr);
    open_ = false;
}

void ProgressBar::finish() {
    if (open_) std::fprintf(stderr, "\n");
    open_ = false;
}

}  // namespace qshard
