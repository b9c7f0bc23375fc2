#pragma once

#include <span>
#include <string>
#include <vector>

namespace qshard::inspect {

/// How to draw: Unicode blocks and colours on a terminal; ASCII, without colours, elsewhere or with
/// NO_COLOR.
struct Style {
    bool color = false;
    bool unicode = false;
    int columns = 80;
};
Style style_of_stdout();

/// A bar of at most `columns` cells for value / largest.
std::string bar(double value, double largest, int columns, const Style& style);

/// A line chart of `rows` lines with a labelled axis; values beyond the columns are averaged.
/// Non-finite values are left out.
std::string line_chart(std::span<const double> values, int rows, const Style& style);

/// Left-aligned columns; the first row is the head.
std::string table(const std::vector<std::vector<std::string>>& rows);

/// 1234567 -> "1.18 MiB".
std::string readable_bytes(double bytes);

}  // namespace qshard::inspect
