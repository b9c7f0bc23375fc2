#pragma once

#include <chrono>
#include <cstdint>
#include <string>

/// What a person watches while waiting: one line that is redrawn on a terminal, plain lines every
/// few seconds elsewhere.
namespace qshard {

/// Whether stderr or stdout takes colours and redrawing; `color` is log.color (auto | always |
/// never). NO_COLOR is respected.
struct TerminalStyle {
    bool live = false;  ///< lines may be redrawn
    bool color = false;
    int width = 80;
    static TerminalStyle of_stderr(const std::string& color);
    static TerminalStyle of_stdout(const std::string& color);
};

/// Columns of the terminal behind a file descriptor; 0 if there is none.
int terminal_width(int descriptor);

/// `text`, its lines broken at spaces so that they have at most `width` columns; what goes on in a
/// new line is indented by `indent`. Longer words stay whole. Width 0: `text` as it is.
std::string wrapped(const std::string& text, int width, int indent);

/// "1:02:03", "4:05", "37 s".
std::string human_seconds(double seconds);

/// A bar over `total` units of work with an estimate of the time left. Silent if not `speaks`
/// (ranks other than 0).
class ProgressBar {
  public:
    ProgressBar(std::string title, std::int64_t total, TerminalStyle style, bool speaks);
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    /// `done` of `total`, and what to say beside the bar: facts with two spaces between them, the
    /// least important last, which a narrow terminal does not show. `always` prints although the
    /// last line is recent.
    void update(std::int64_t done, const std::string& facts, bool always = false);
    /// Prints a line of its own without tearing the bar.
    void message(const std::string& line);
    /// Ends the line; update() after it starts another.
    void finish();
    /// The estimate counts from here: work before (a resumed run's steps) took no time.
    void start_at(std::int64_t done);

  private:
    std::string line(std::int64_t done, const std::string& facts) const;
    std::string live_line(std::int64_t done, const std::string& facts,
                          const std::string& left) const;

    const std::string title_;
    const std::int64_t total_;
    const TerminalStyle style_;
    const bool speaks_;
    std::int64_t first_ = 0;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
    std::chrono::steady_clock::time_point shown_{};
    bool open_ = false;  ///< an unfinished line is on the screen
};

}  // namespace qshard
