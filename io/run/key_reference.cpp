#include "io/run/key_reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "io/run/run_file.h"
#include "io/run/run_reader.h"
#include "io/run/schema.h"

namespace qshard {
namespace {

constexpr std::size_t kColumns = 80;

std::string lower(std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
}

/// Words in lines of at most kColumns, each after `indent` spaces.
std::string wrapped(const std::string& text, std::size_t indent) {
    const std::string margin(indent, ' ');
    std::string out, line = margin;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find(' ', begin), text.size());
        const std::string word = text.substr(begin, end - begin);
        if (line.size() > indent && line.size() + 1 + word.size() > kColumns) {
            out += line + "\n";
            line = margin;
        }
        line += (line.size() > indent ? " " : "") + word;
        begin = end + 1;
    }
    return out + line + "\n";
}

/// A default on one line, as a run file has it.
std::string default_text(const RunKey& key) {
    YAML::Emitter out;
    out.SetMapFormat(YAML::Flow);
    out.SetSeqFormat(YAML::Flow);
    out << key.write();
    const std::string text = out.c_str();
    if (text == "~" || text == "[]" || text == "{}") return "null";
    return text.empty() || text == "\"\"" || text == "[~]" ? "" : text;
}

}  // namespace

std::string key_reference(const std::string& pattern) {
    RunFile defaults;
    std::string text, section;
    for (const RunKey& key : run_keys(defaults)) {
        if (lower(key.path + " " + key.help).find(lower(pattern)) == std::string::npos) continue;
        const std::string top = key.path.substr(0, key.path.find('.'));
        if (!section.empty() && top != section) text += "\n";
        section = top;
        const std::string value = default_text(key);
        const std::string head = value.empty() ? fmt::format("{} (required)", key.path)
                                               : fmt::format("{}: {}", key.path, value);
        text += head + "\n" + wrapped(key.help, 4) + wrapped("Takes " + key.values + ".", 4);
    }
    return text;
}

std::string key_meant(const std::string& word) {
    RunFile defaults;
    std::vector<RunKey> keys = run_keys(defaults);
    return RunReader("", keys).answer(word);
}

}  // namespace qshard
