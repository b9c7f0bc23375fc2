#include "io/data/rows.h"

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "io/chat/text.h"
#include "io/formats/placeholder.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace json = boost::json;
constexpr std::size_t kMaxLineBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxJsonBytes = std::size_t{1} << 30;
constexpr std::size_t kMaxColumns = 4096;

std::ifstream open_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file || std::filesystem::is_directory(path)) {
        throw UserError(fmt::format(
            "{}: the data file cannot be read. Check the path (relative to the run file).", path));
    }
    file.exceptions(std::ios::badbit);  // errors of the disk are not the file's end
    if (std::filesystem::is_regular_file(path)) {
        std::string begin(kPlaceholderBytes, '\0');
        file.read(begin.data(), static_cast<std::streamsize>(begin.size()));
        begin.resize(static_cast<std::size_t>(file.gcount()));
        refuse_placeholder(begin, path);
        file.clear();
        file.seekg(0);
    }
    return file;
}

/// The next line without its newline; false at the end. Never holds more than kMaxLineBytes of a
/// line.
bool next_line(std::istream& file, std::string& line, const std::string& path,
               std::int64_t number) {
    line.clear();
    std::streambuf& buffer = *file.rdbuf();
    int byte = buffer.sbumpc();
    if (byte == std::char_traits<char>::eof()) return false;
    for (; byte != '\n' && byte != std::char_traits<char>::eof(); byte = buffer.sbumpc()) {
        if (line.size() == kMaxLineBytes) {
            throw UserError(fmt::format("{}:{}: the line is longer than {} MiB", path, number,
                                        kMaxLineBytes >> 20));
        }
        line += static_cast<char>(byte);
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    return true;
}

void check_utf8(std::string_view text, const std::string& place) {
    if (!jinja::valid_utf8(text))
        throw UserError(fmt::format("{}: not valid UTF-8. Convert the file to UTF-8.", place));
}

json::object object_of(json::value value, const std::string& place) {
    if (!value.is_object())
        throw UserError(
            fmt::format("{}: expected a JSON object {{...}}, found another value", place));
    return std::move(value.get_object());
}

std::vector<DataRow> read_lines(const std::string& path) {
    std::ifstream file = open_file(path);
    std::vector<DataRow> rows;
    std::string line;
    for (std::int64_t number = 1; next_line(file, line, path, number); ++number) {
        if (line.find_first_not_of(" \t") == std::string::npos) continue;
        std::string place = fmt::format("{}:{}", path, number);
        check_utf8(line, place);
        json::object columns =
            object_of(parse_strict_json(line, place, {.bytes = kMaxLineBytes}), place);
        rows.push_back({std::move(columns), std::move(place)});
    }
    return rows;
}

std::vector<DataRow> read_json(const std::string& path) {
    std::ifstream file = open_file(path);
    char first = ' ';
    while (file.get(first) && (first == ' ' || (first >= '\t' && first <= '\r') ||
                               static_cast<unsigned char>(first) >= 0x80)) {
    }
    // Many .json data sets are lines of objects.
    if (first == '{') return read_lines(path);
    const auto bytes = static_cast<std::size_t>(std::filesystem::file_size(path));
    if (bytes > kMaxJsonBytes) {
        throw UserError(fmt::format("{}: {} bytes, a .json file may have {}. Convert it to .jsonl.",
                                    path, bytes, kMaxJsonBytes));
    }
    file.clear();
    file.seekg(0);
    std::string text(bytes, '\0');
    file.read(text.data(), static_cast<std::streamsize>(bytes));
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
    check_utf8(text, path);
    json::value document = parse_strict_json(text, path, {.bytes = kMaxJsonBytes});
    if (!document.is_array())
        throw UserError(fmt::format("{}: expected an array of objects [{{...}}, ...]", path));
    std::vector<DataRow> rows;
    for (json::value& element : document.get_array()) {
        std::string place = fmt::format("{}, row {}", path, rows.size() + 1);
        json::object columns = object_of(std::move(element), place);
        rows.push_back({std::move(columns), std::move(place)});
    }
    return rows;
}

/// Fields of RFC 4180 records, lines joined while a quote is open.
class CsvReader {
  public:
    explicit CsvReader(const std::string& path) : path_(path), file_(open_file(path)) {}

    /// False at the end of the file. place() is the line on which the record began.
    bool next(std::vector<std::string>& fields) {
        fields.clear();
        do {
            if (!next_line(file_, line_, path_, ++number_)) return false;
        } while (line_.empty());
        place_ = fmt::format("{}:{}", path_, number_);
        check_utf8(line_, place_);
        for (std::size_t at = 0; at <= line_.size();) {
            fields.emplace_back();
            at = at < line_.size() && line_[at] == '"' ? quoted(fields.back(), at + 1)
                                                       : plain(fields.back(), at);
            if (fields.size() > kMaxColumns) fail(fmt::format("more than {} fields", kMaxColumns));
        }
        return true;
    }

    const std::string& place() const { return place_; }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw UserError(fmt::format("{}: {}", place_, what));
    }

    /// The field from `at` to a comma or the end of the line; the position after it.
    std::size_t plain(std::string& field, std::size_t at) const {
        const std::size_t end = std::min(line_.find(',', at), line_.size());
        field = line_.substr(at, end - at);
        if (field.find('"') != std::string::npos)
            fail("a quote inside a field that does not begin with one (write \"\" inside quotes)");
        return end + 1;
    }

    std::size_t quoted(std::string& field, std::size_t at) {
        while (true) {
            const std::size_t quote = line_.find('"', at);
            if (quote == std::string::npos) {
                field.append(line_, at);
                field += '\n';
                if (field.size() > kMaxLineBytes)
                    fail(fmt::format("a field is longer than {} MiB: is a quote not closed?",
                                     kMaxLineBytes >> 20));
                if (!next_line(file_, line_, path_, ++number_))
                    fail("a quoted field is not closed");
                check_utf8(line_, place_);
                at = 0;
                continue;
            }
            field.append(line_, at, quote - at);
            at = quote + 1;
            if (at < line_.size() && line_[at] == '"') {
                field += '"';
                ++at;
                continue;
            }
            if (at < line_.size() && line_[at] != ',')
                fail("text after a quoted field (write \"\" for a quote inside it)");
            return at + 1;
        }
    }

    std::string path_;
    std::ifstream file_;
    std::string line_;
    std::string place_;
    std::int64_t number_ = 0;
};

std::vector<DataRow> read_csv(const std::string& path) {
    CsvReader reader(path);
    std::vector<std::string> header, fields;
    std::vector<DataRow> rows;
    if (!reader.next(header)) return rows;
    for (std::size_t i = 0; i < header.size(); ++i) {
        if (std::find(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(i), header[i]) !=
            header.begin() + static_cast<std::ptrdiff_t>(i)) {
            throw UserError(fmt::format("{}: the column \"{}\" appears twice in the header",
                                        reader.place(), header[i]));
        }
    }
    while (reader.next(fields)) {
        if (fields.size() != header.size()) {
            throw UserError(fmt::format("{}: {} fields, the header has {}", reader.place(),
                                        fields.size(), header.size()));
        }
        json::object columns;
        for (std::size_t i = 0; i < header.size(); ++i) columns[header[i]] = fields[i];
        rows.push_back({std::move(columns), reader.place()});
    }
    return rows;
}

std::vector<DataRow> read_by_extension(const std::string& path) {
    const std::string extension = std::filesystem::path(path).extension().string();
    if (extension == ".jsonl") return read_lines(path);
    if (extension == ".json") return read_json(path);
    if (extension == ".csv") return read_csv(path);
    throw UserError(
        fmt::format("{}: expected a data file that ends in .jsonl, .json or .csv", path));
}

}  // namespace

std::vector<DataRow> read_rows(const std::string& path) {
    std::vector<DataRow> rows;
    try {
        rows = read_by_extension(path);
    } catch (const std::ios_base::failure& error) {
        throw SystemError(fmt::format("reading {}: {}", path, error.code().message()));
    }
    if (rows.empty()) throw UserError(fmt::format("{}: the file has no rows", path));
    return rows;
}

std::string column_names(const json::object& columns) {
    std::string names;
    for (const auto& column : columns) {
        if (names.size() > 300) return names + ", ...";
        if (!names.empty()) names += ", ";
        names += std::string_view(column.key()).substr(0, 100);
    }
    return names.empty() ? "none" : names;
}

}  // namespace qshard
