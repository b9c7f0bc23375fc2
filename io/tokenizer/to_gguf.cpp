#include "io/tokenizer/to_gguf.h"

#include <boost/json.hpp>

#include "base/error.h"
#include "io/tokenizer/gguf_pretokenizers.h"
#include "io/tokenizer/gguf_vocabulary.h"
#include "io/tokenizer/word_pattern.h"

namespace qshard {
namespace {

namespace json = boost::json;

// What pre-tokenizers differ on: digits, runs of spaces, line ends, apostrophes, letters of all
// kinds. Nothing that NFC changes: llama.cpp does not normalize.
constexpr std::string_view kProbe =
    "Hello  World's 1234567 x=3.14;\r\n\n\t   I'LL caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC "
    "\xC2\xBD\xE2\x85\xA7 snake_case CamelCase!!?\n    def f(a): # "
    "\xF0\x9F\x98\x80\xF0\x9F\x98\x80 ";

[[noreturn]] void refuse(const std::string& file, const std::string& what) {
    throw UserError(
        fmt::format("{}: {}, which has no form in GGUF that is known here; export --to merged-hf "
                    "and convert that "
                    "with llama.cpp's convert_hf_to_gguf.py",
                    file, what));
}

std::string_view type_of(const json::value& part) {
    const json::value* type = part.is_object() ? part.get_object().if_contains("type") : nullptr;
    return type != nullptr && type->is_string() ? std::string_view(type->get_string()) : "";
}

bool flag(const json::value& part, const char* key, bool absent) {
    const json::value* value = part.get_object().if_contains(key);
    return value != nullptr && value->is_bool() ? value->get_bool() : absent;
}

/// Patterns of the splits before the bytes; a ByteLevel's own is GPT-2's.
std::vector<std::string> patterns_of(const std::string& file, const json::value& part) {
    std::vector<std::string> patterns;
    if (type_of(part) == "Sequence") {
        for (const json::value& inner : part.at("pretokenizers").as_array()) {
            for (std::string& pattern : patterns_of(file, inner))
                patterns.push_back(std::move(pattern));
        }
    } else if (type_of(part) == "Split" && part.at("pattern").as_object().contains("Regex")) {
        patterns.emplace_back(part.at("pattern").at("Regex").as_string());
    } else if (type_of(part) == "Digits" && flag(part, "individual_digits", false)) {
        patterns.emplace_back(R"(\p{N})");
    } else if (type_of(part) == "ByteLevel") {
        if (flag(part, "use_regex", true)) patterns.emplace_back(tok::kGpt2Pattern);
    } else {
        refuse(file, fmt::format("a pre-tokenizer of type \"{}\"", type_of(part)));
    }
    return patterns;
}

std::string merge_text(const json::value& merge) {
    if (merge.is_string()) return std::string(merge.get_string());
    return fmt::format("{} {}", std::string_view(merge.at(0).as_string()),
                       std::string_view(merge.at(1).as_string()));
}

void add_tokens(const json::object& document, std::int64_t vocabulary, GgufTokenizerData& data) {
    const json::object& vocab = document.at("model").at("vocab").as_object();
    std::int64_t count = vocabulary;
    const auto put = [&](std::int64_t id, std::string_view token, std::int32_t type) {
        if (id < 0 || id >= (std::int64_t{1} << 20)) throw UserError("a token id is out of range");
        count = std::max(count, id + 1);
        const auto size = static_cast<std::size_t>(count);
        if (data.tokens.size() < size) {
            data.tokens.resize(size);
            data.token_types.resize(size, tok::kUnused);
        }
        data.tokens[static_cast<std::size_t>(id)] = token;
        data.token_types[static_cast<std::size_t>(id)] = type;
    };
    for (const auto& [token, id] : vocab) put(id.to_number<std::int64_t>(), token, tok::kNormal);
    if (const json::value* added = document.if_contains("added_tokens")) {
        for (const json::value& one : added->as_array()) {
            put(one.at("id").to_number<std::int64_t>(), one.at("content").as_string(),
                flag(one, "special", false) ? tok::kControl : tok::kUserDefined);
        }
    }
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        if (data.token_types[id] == tok::kUnused) data.tokens[id] = fmt::format("[PAD{}]", id);
    }
}

/// SentencePiece joins the two neighbours whose union has the best score: a token's is the rank of
/// the first merge that makes it.
void add_scores(const json::object& document, GgufTokenizerData& data) {
    const json::value& model = document.at("model");
    const json::object& vocab = model.at("vocab").as_object();
    const json::array& merges = model.at("merges").as_array();
    data.scores.assign(data.tokens.size(), -static_cast<float>(merges.size()));
    std::vector<bool> scored(data.tokens.size());
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
        std::string token = merge_text(merges[rank]);
        token.erase(token.find(' ', 1), 1);  // no piece has a space: those are markers
        const auto id = vocab.at(token).to_number<std::size_t>();
        if (!scored[id]) data.scores[id] = -static_cast<float>(rank);
        scored[id] = true;
    }
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        const std::string& token = data.tokens[id];
        if (token.size() == 6 && token.starts_with("<0x") && token.back() == '>')
            data.token_types[id] = tok::kByte;
    }
    const json::value* unknown = model.get_object().if_contains("unk_token");
    if (unknown == nullptr || !unknown->is_string()) return;
    data.unk = vocab.at(unknown->get_string()).to_number<std::int32_t>();
    data.token_types[static_cast<std::size_t>(*data.unk)] = tok::kUnknown;
}

/// Whether a text's first word gets the marker of a space that it does not have.
bool adds_space_prefix(const json::object& document) {
    const json::value* normalizer = document.if_contains("normalizer");
    if (normalizer != nullptr && type_of(*normalizer) == "Sequence") {
        for (const json::value& part : normalizer->at("normalizers").as_array()) {
            if (type_of(part) == "Prepend") return true;
        }
    }
    const json::value* words = document.if_contains("pre_tokenizer");
    if (words == nullptr || type_of(*words) != "Metaspace") return false;
    const json::value* scheme = words->get_object().if_contains("prepend_scheme");
    return scheme == nullptr || *scheme != "never";
}

GgufTokenizerData sentence_piece(const json::object& document, std::int64_t vocabulary) {
    GgufTokenizerData data;
    data.model = "llama";
    data.pre = "default";
    add_tokens(document, vocabulary, data);
    add_scores(document, data);
    data.add_space_prefix = adds_space_prefix(document);
    return data;
}

GgufTokenizerData byte_level(const json::object& document, const std::string& origin,
                             std::int64_t vocabulary) {
    const json::value& model = document.at("model");
    const json::value* normalizer = document.if_contains("normalizer");
    const bool none =
        normalizer == nullptr || normalizer->is_null() ||
        (type_of(*normalizer) == "Sequence" && normalizer->at("normalizers").as_array().empty());
    if (!none && type_of(*normalizer) != "NFC")
        refuse(origin, fmt::format("a normalizer \"{}\"", type_of(*normalizer)));
    GgufTokenizerData data;
    data.model = "gpt2";
    data.pre = tok::gguf_pre_tokenizer_name(patterns_of(origin, document.at("pre_tokenizer")),
                                            flag(model, "ignore_merges", false));
    if (data.pre.empty()) refuse(origin, "a pre-tokenizer");
    add_tokens(document, vocabulary, data);
    for (const json::value& merge : model.at("merges").as_array())
        data.merges.push_back(merge_text(merge));
    return data;
}

}  // namespace

GgufTokenizerData gguf_tokenizer_of(const std::string& tokenizer_json, const std::string& origin,
                                    std::int64_t vocabulary) {
    const Tokenizer original =
        Tokenizer::from_json_text(tokenizer_json, origin);  // checks all limits
    const json::object document = json::parse(tokenizer_json).as_object();
    const json::value& model = document.at("model");
    const std::string_view type = type_of(model);
    if (type != "BPE" && !type.empty()) refuse(origin, fmt::format("a {} model", type));
    GgufTokenizerData data = flag(model, "byte_fallback", false)
                                 ? sentence_piece(document, vocabulary)
                                 : byte_level(document, origin, vocabulary);
    if (Tokenizer::from_gguf(data).encode(kProbe, false) != original.encode(kProbe, false)) {
        refuse(origin, "a tokenizer");
    }
    return data;
}

}  // namespace qshard
