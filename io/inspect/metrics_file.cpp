#include "io/inspect/metrics_file.h"

#include <fstream>

#include "base/error.h"
#include "spec/json.h"

namespace qshard::inspect {

std::vector<boost::json::object> read_metrics(const std::filesystem::path& path) {
    constexpr std::size_t kMaxLineBytes = std::size_t{16} << 20;
    const auto name = std::filesystem::is_directory(path) ? path / "metrics.jsonl" : path;
    std::ifstream file(name, std::ios::binary);
    if (!file) throw UserError(fmt::format("{}: cannot be opened", name.string()));
    std::vector<boost::json::object> lines;
    std::string line;
    for (std::int64_t number = 1; std::getline(file, line); ++number) {
        if (file.eof()) break;  // no line end: torn
        const std::string where = fmt::format("{}:{}", name.string(), number);
        const auto value =
            parse_strict_json(line, where, {.bytes = kMaxLineBytes, .non_finite = true});
        if (!value.is_object()) throw UserError(where + ": expected a JSON object");
        lines.push_back(value.get_object());
    }
    return lines;
}

}  // namespace qshard::inspect
