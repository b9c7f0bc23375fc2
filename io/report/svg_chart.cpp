#include "io/report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace qshard {
namespace {

constexpr double kWidth = 640, kHeight = 250;
constexpr double kLeft = 62, kRight = 16, kTop = 34, kBottom = 42;
constexpr std::size_t kSlices = 300;    // two points each
constexpr std::size_t kFewPoints = 40;  // are marked one by one
constexpr const char* kColors[] = {"#2b7de9", "#e8590c", "#2f9e44", "#ae3ec9"};

struct Range {
    double low = std::numeric_limits<double>::infinity(), high = -low;

    void add(double value) {
        low = std::min(low, value);
        high = std::max(high, value);
    }
    bool empty() const { return low > high; }
    double at(double value, double from, double to) const {
        return high > low ? from + (value - low) / (high - low) * (to - from) : (from + to) / 2;
    }
};

struct Point {
    double step, value;
};

/// The extremes of every slice, in order: a thinned curve that hides no spike.
std::vector<Point> thinned(const Series& series) {
    std::vector<Point> points;
    const std::size_t count = std::min(series.steps.size(), series.values.size());
    const std::size_t slices = std::min(kSlices, count);
    for (std::size_t slice = 0; slice < slices; ++slice) {
        const std::size_t begin = slice * count / slices, end = (slice + 1) * count / slices;
        const auto by_value = [&](std::size_t a, std::size_t b) {
            return series.values[a] < series.values[b];
        };
        std::vector<std::size_t> finite;
        for (std::size_t i = begin; i < end; ++i) {
            if (std::isfinite(series.values[i]) && std::isfinite(series.steps[i]))
                finite.push_back(i);
        }
        if (finite.empty()) {
            points.push_back({series.steps[begin], std::numeric_limits<double>::quiet_NaN()});
            continue;
        }
        const auto [low, high] = std::minmax_element(finite.begin(), finite.end(), by_value);
        for (std::size_t i : {std::min(*low, *high), std::max(*low, *high)}) {
            points.push_back({series.steps[i], series.values[i]});
            if (*low == *high) break;
        }
    }
    return points;
}

/// Round numbers inside the range: multiples of 1, 2 or 5 times a power of ten.
std::vector<double> ticks(const Range& range) {
    if (!(range.high > range.low)) return {range.low};
    const double rough = (range.high - range.low) / 4;
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    const double ratio = rough / power;
    const double step = power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
    std::vector<double> found;
    for (double n = std::ceil(range.low / step); n * step <= range.high + step * 1e-9; ++n) {
        found.push_back(n * step);
    }
    return found;
}

std::string path_of(const std::vector<Point>& points, const Range& x, const Range& y) {
    std::string path;
    bool pen_down = false;
    for (const Point& point : points) {
        if (!std::isfinite(point.value)) {
            pen_down = false;
            continue;
        }
        path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M",
                            x.at(point.step, kLeft, kWidth - kRight),
                            y.at(point.value, kHeight - kBottom, kTop));
        pen_down = true;
    }
    return path;
}

/// Circles at the points of a short series, which as a line alone would hide how few they are.
std::string marks_of(const std::vector<Point>& points, const Range& x, const Range& y,
                     const char* color) {
    std::string svg;
    if (points.size() > kFewPoints) return svg;
    for (const Point& point : points) {
        if (!std::isfinite(point.value)) continue;
        svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>",
                           x.at(point.step, kLeft, kWidth - kRight),
                           y.at(point.value, kHeight - kBottom, kTop), color);
    }
    return svg;
}

std::string axes(const Range& x, const Range& y) {
    std::string svg;
    for (double tick : ticks(y)) {
        const double at = y.at(tick, kHeight - kBottom, kTop);
        svg += fmt::format(
            "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
            "<text class=\"tick\" x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.6g}</text>",
            kLeft, kWidth - kRight, at, kLeft - 6, at + 4, tick);
    }
    for (double tick : ticks(x)) {
        svg += fmt::format(
            "<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.6g}</text>",
            x.at(tick, kLeft, kWidth - kRight), kHeight - kBottom + 16, tick);
    }
    svg += fmt::format(
        "<path class=\"axis\" d=\"M{0} {1}V{2}H{3}\" fill=\"none\"/>"
        "<text class=\"tick\" x=\"{3}\" y=\"{4}\" text-anchor=\"end\">step</text>",
        kLeft, kTop - 6, kHeight - kBottom, kWidth - kRight, kHeight - 8);
    return svg;
}

}  // namespace

std::string html_escaped(const std::string& text) {
    std::string out;
    for (char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            default:
                out += c;
        }
    }
    return out;
}

std::string svg_chart(const std::string& title, const std::vector<Series>& series) {
    Range x, y;
    std::vector<std::vector<Point>> curves;
    for (const Series& one : series) {
        curves.push_back(thinned(one));
        for (const Point& point : curves.back()) {
            if (!std::isfinite(point.value)) continue;
            x.add(point.step);
            y.add(point.value);
        }
    }
    if (x.empty()) return "";
    std::string svg = fmt::format(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">"
        "<text class=\"title\" x=\"{}\" y=\"18\">{}</text>{}",
        kWidth, kHeight, html_escaped(title), kLeft, html_escaped(title), axes(x, y));
    double legend_x = kWidth - kRight;
    for (std::size_t i = curves.size(); i-- > 0;) {
        const char* color = kColors[i % std::size(kColors)];
        svg += fmt::format(
            "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" "
            "stroke-linejoin=\"round\"/>",
            path_of(curves[i], x, y), color);
        svg += marks_of(curves[i], x, y, color);
        if (series.size() < 2) continue;
        svg += fmt::format(
            "<text class=\"tick\" x=\"{}\" y=\"18\" text-anchor=\"end\" "
            "style=\"fill:{}\">{}</text>",
            legend_x, color, html_escaped(series[i].name));
        legend_x -= 8.0 * static_cast<double>(series[i].name.size()) + 16;
    }
    return svg + "</svg>";
}

}  // namespace qshard
