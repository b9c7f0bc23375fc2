#include <boost/json.hpp>
#include <ctime>
#include <iostream>
#include <string>

#include "base/error.h"
#include "io/formats/gguf_files.h"
#include "io/formats/gguf_model.h"
#include "io/tokenizer/tokenizer.h"

/// Tokenizes JSON strings, one a line, from standard input: the C++ side of
/// tests/peer/compare_tokenizer.py.
///   tokenizer_cli TOKENIZER              {"ids", "special_ids", "offsets", "text", "plain_text"}
///                                        for every line
///   tokenizer_cli TOKENIZER --bench N    encodes all lines N times; prints the best MB per CPU
///                                        second and the number of tokens
/// TOKENIZER is a tokenizer.json or a GGUF model.
namespace {

namespace json = boost::json;

qshard::Tokenizer open_tokenizer(const std::filesystem::path& path) {
    if (path.extension() != ".gguf") return qshard::Tokenizer::from_json_file(path);
    const auto data = qshard::gguf_tokenizer(*qshard::open_gguf_files(path));
    if (!data) throw qshard::UserError(path.string() + ": a GGUF file without a vocabulary");
    return qshard::Tokenizer::from_gguf(*data);
}

json::object describe(const qshard::Tokenizer& tokenizer, const std::string& text) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text, false);
    json::array offsets;
    for (const qshard::TokenSpan& span : tokenizer.encode_with_offsets(text, false)) {
        offsets.push_back({span.id, span.begin, span.end});
    }
    return {{"ids", json::value_from(ids)},
            {"special_ids", json::value_from(tokenizer.encode(text, true))},
            {"offsets", std::move(offsets)},
            {"text", tokenizer.decode(ids, false)},
            {"plain_text", tokenizer.decode(ids, true)}};
}

void bench(const qshard::Tokenizer& tokenizer, const std::vector<std::string>& texts, int rounds) {
    double best = 0.0;
    std::size_t tokens = 0;
    for (int round = 0; round < rounds; ++round) {
        std::size_t bytes = 0;
        tokens = 0;
        const std::clock_t start = std::clock();
        for (const std::string& text : texts) {
            tokens += tokenizer.encode(text, false).size();
            bytes += text.size();
        }
        const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
        best = std::max(best, static_cast<double>(bytes) / 1e6 / seconds);
    }
    std::cout << best << " " << tokens << "\n";
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 2 && argc != 4) {
        std::cerr << "usage: tokenizer_cli TOKENIZER [--bench ROUNDS] < lines\n";
        return 64;
    }
    const auto tokenizer = open_tokenizer(argv[1]);
    std::vector<std::string> texts;
    for (std::string line; std::getline(std::cin, line);) {
        texts.push_back(json::value_to<std::string>(json::parse(line)));
    }
    if (argc == 4) {
        bench(tokenizer, texts, std::stoi(argv[3]));
        return 0;
    }
    for (const std::string& text : texts) std::cout << describe(tokenizer, text) << "\n";
    return 0;
} catch (const std::exception& error) {
    std::cerr << "tokenizer_cli: " << error.what() << "\n";
    return 65;
}
