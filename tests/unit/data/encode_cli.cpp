#include <fstream>
#include <iostream>
#include <sstream>

#include "base/error.h"
#include "io/data/encode.h"
#include "io/data/rows.h"
#include "io/tokenizer/tokenizer.h"

/// Encodes the rows of a file as training does: the C++ side of tests/peer/compare_chats.py.
///   encode_cli TOKENIZER.json SETTINGS.json ROWS.jsonl
/// prints {"ids", "labels", "notes"} or {"error"} for every row. Settings: {"templates": {name:
/// text}, "variables": {"bos_token", "eos_token"}, "eos_id"}.
namespace {

namespace json = boost::json;

json::value read_json(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return json::parse(text.str());
}

class Encoder final : public qshard::TextEncoder {
  public:
    explicit Encoder(const qshard::Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
    std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
        return tokenizer_.encode(text, special);
    }
    std::vector<qshard::TokenSpan> encode_with_offsets(std::string_view text,
                                                       bool special) const override {
        return tokenizer_.encode_with_offsets(text, special);
    }

  private:
    const qshard::Tokenizer& tokenizer_;
};

json::object encode(const qshard::RowEncoder& encoder, const qshard::DataRow& row) {
    try {
        const auto outcome = encoder.encode(row);
        if (!outcome.row) return {{"error", "no document"}};
        return {{"ids", json::value_from(outcome.row->ids)},
                {"labels", json::value_from(outcome.row->labels)},
                {"notes", json::value_from(outcome.notes.lines())}};
    } catch (const qshard::UserError& error) {
        return {{"error", error.what()}};
    }
}

int run(char** argv) {
    const auto tokenizer = qshard::Tokenizer::from_json_file(argv[1]);
    const json::value settings = read_json(argv[2]);
    std::map<std::string, std::string> templates;
    for (const auto& [name, text] : settings.at("templates").as_object())
        templates[std::string(name)] = text.as_string();
    const auto chat = qshard::ChatTemplate::parse_named(templates, "the template");
    qshard::EncodeOptions options;
    options.max_length = 1 << 20;
    options.chat_variables = settings.at("variables").as_object();
    options.eos_id = static_cast<std::int32_t>(settings.at("eos_id").as_int64());
    const Encoder text(tokenizer);
    const qshard::RowEncoder encoder(text, &chat, options);
    for (const qshard::DataRow& row : qshard::read_rows(argv[3]))
        std::cout << json::serialize(encode(encoder, row)) << "\n";
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::cerr << "usage: encode_cli TOKENIZER.json SETTINGS.json ROWS.jsonl\n";
        return 64;
    }
    try {
        return run(argv);
    } catch (const qshard::Error& error) {
        std::cerr << error.what() << "\n";
        return static_cast<int>(error.code());
    }
}
