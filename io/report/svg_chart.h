#pragma once

#include <string>
#include <vector>

namespace qshard {

/// One curve over steps. Points that are not finite leave a gap.
struct Series {
    std::string name;
    std::vector<double> steps, values;
};

/// One chart with a title, axes with round numbers, and a legend if there are several series; a
/// complete <svg> element that inherits its text colour. Long series are thinned to what 640 pixels
/// show, extremes kept. "" without points.
std::string svg_chart(const std::string& title, const std::vector<Series>& series);

/// Text for HTML and SVG, in elements and in quoted attributes.
std::string html_escaped(const std::string& text);

}  // namespace qshard
