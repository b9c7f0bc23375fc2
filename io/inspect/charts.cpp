#include "io/inspect/charts.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace qshard::inspect {
namespace {

constexpr int kMinColumns = 40, kMaxColumns = 120;

/// Means of `count` equal slices; NaN where a slice has no finite value.
std::vector<double> resampled(std::span<const double> values, std::size_t count) {
    count = std::min(count, values.size());
    std::vector<double> means;
    for (std::size_t i = 0; i < count; ++i) {
        double sum = 0;
        std::size_t used = 0;
        for (std::size_t j = i * values.size() / count; j < (i + 1) * values.size() / count; ++j) {
            if (!std::isfinite(values[j])) continue;
            sum += values[j];
            ++used;
        }
        means.push_back(used == 0 ? std::numeric_limits<double>::quiet_NaN()
                                  : sum / static_cast<double>(used));
    }
    return means;
}

}  // namespace

Style style_of_stdout() {
    Style style;
    const bool terminal = ::isatty(STDOUT_FILENO) == 1;
    const char* no_color =
        std::getenv("NO_COLOR");  // https://no-color.org: a user's display setting
    style.unicode = terminal;
    style.color = terminal && (no_color == nullptr || *no_color == '\0');
    winsize window{};
    if (terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) {
        style.columns = std::clamp<int>(window.ws_col, kMinColumns, kMaxColumns);
    }
    return style;
}

std::string bar(double value, double largest, int columns, const Style& style) {
    if (!(largest > 0) || !std::isfinite(value)) return "";
    const int eighths =
        static_cast<int>(std::lround(std::clamp(value / largest, 0.0, 1.0) * columns * 8));
    std::string text;
    if (style.unicode) {
        static const char* kPart[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
        for (int i = 0; i < eighths / 8; ++i) text += "█";
        text += kPart[eighths % 8];
    } else {
        text.assign(static_cast<std::size_t>((eighths + 4) / 8), '#');
    }
    return style.color ? "\x1b[36m" + text + "\x1b[0m" : text;
}

std::string line_chart(std::span<const double> values, int rows, const Style& style) {
    const std::vector<double> points =
        resampled(values, static_cast<std::size_t>(style.columns - 12));
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (double point : points) {
        if (!std::isfinite(point)) continue;
        low = std::min(low, point);
        high = std::max(high, point);
    }
    if (low > high) return "";
    const double span = high > low ? high - low : 1;
    std::string text;
    for (int row = rows - 1; row >= 0; --row) {
        const bool labelled = row == rows - 1 || row == 0;
        text += labelled ? fmt::format("{:>10.4g} ", row == 0 ? low : high) : std::string(11, ' ');
        text += style.unicode ? "│" : "|";
        for (double point : points) {
            const bool here =
                std::isfinite(point) && std::lround((point - low) / span * (rows - 1)) == row;
            text += here ? (style.unicode ? "•" : "*") : " ";
        }
        text.erase(text.find_last_not_of(' ') + 1);
        text += "\n";
    }
    return text;
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths;
    for (const auto& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i)
            line += fmt::format("{:<{}}  ", row[i], widths[i]);
        line.erase(line.find_last_not_of(' ') + 1);
        text += line + "\n";
    }
    return text;
}

std::string readable_bytes(double bytes) {
    const char* unit = "bytes";
    for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
        if (bytes < 1024) break;
        bytes /= 1024;
        unit = larger;
    }
    return bytes == std::floor(bytes) ? fmt::format("{} {}", bytes, unit)
                                      : fmt::format("{:.2f} {}", bytes, unit);
}

}  // namespace qshard::inspect
