#include "io/tokenizer/to_json.h"

#include <boost/json.hpp>

#include "base/error.h"
#include "io/tokenizer/gguf_pretokenizers.h"

namespace qshard {
namespace {

namespace json = boost::json;

bool is_added(const GgufTokenizerData& data, std::size_t id) {
    if (data.token_types.empty() || data.tokens[id].empty()) return false;
    const std::int32_t type = data.token_types[id];
    return type == tok::kControl || type == tok::kUserDefined || type == tok::kUnknown;
}

json::array added_tokens(const GgufTokenizerData& data) {
    json::array added;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        if (!is_added(data, id)) continue;
        added.push_back({{"id", id},
                         {"content", data.tokens[id]},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", data.token_types[id] != tok::kUserDefined}});
    }
    return added;
}

json::object byte_level() {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", false}};
}

json::object pre_tokenizer(const tok::PreTokenizerRow& row) {
    json::array steps;
    for (const std::string_view pattern : row.patterns) {
        steps.push_back({{"type", "Split"},
                         {"pattern", {{"Regex", pattern}}},
                         {"behavior", "Isolated"},
                         {"invert", false}});
    }
    steps.push_back(byte_level());
    return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

/// Adds bos before and eos after the text, as the file asks for.
json::value post_processor(const GgufTokenizerData& data, bool add_bos) {
    json::array single, pair;
    json::object specials;
    const auto special = [&](std::int32_t id) {
        const std::string& token = data.tokens[static_cast<std::size_t>(id)];
        specials[token] = {
            {"id", token}, {"ids", json::array{id}}, {"tokens", json::array{json::value(token)}}};
        return json::object{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
    };
    const auto sequence = [](const char* name) {
        return json::object{{"Sequence", {{"id", name}, {"type_id", 0}}}};
    };
    const bool eos = data.add_eos.value_or(false) && data.eos;
    for (const char* name : {"A", "B"}) {
        json::array part;
        if (add_bos && data.bos) part.push_back(special(*data.bos));
        part.push_back(sequence(name));
        if (eos) part.push_back(special(*data.eos));
        if (*name == 'A') single = part;
        pair.insert(pair.end(), part.begin(), part.end());
    }
    if (specials.empty()) return byte_level();
    return {{"type", "TemplateProcessing"},
            {"single", single},
            {"pair", pair},
            {"special_tokens", specials}};
}

json::object model(const GgufTokenizerData& data, bool ignore_merges) {
    json::object vocabulary;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        if (!is_added(data, id) && !data.tokens[id].empty()) vocabulary[data.tokens[id]] = id;
    }
    json::array merges;
    for (const std::string& merge : data.merges) {
        const std::size_t space = merge.find(' ', 1);
        if (space == std::string::npos) throw UserError("GGUF tokenizer: a merge is no pair");
        merges.push_back(json::array{merge.substr(0, space), merge.substr(space + 1)});
    }
    return {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", ignore_merges},
            {"vocab", vocabulary},
            {"merges", merges}};
}

}  // namespace

std::string tokenizer_json_of(const GgufTokenizerData& data) {
    if (data.model != "gpt2") {
        throw UserError(fmt::format(
            "a \"{}\" tokenizer of a GGUF file cannot be written as tokenizer.json", data.model));
    }
    const tok::PreTokenizerRow& row = tok::gguf_pre_tokenizer(data.pre);
    const json::object document = {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", added_tokens(data)},
        {"normalizer", nullptr},
        {"pre_tokenizer", pre_tokenizer(row)},
        {"post_processor", post_processor(data, data.add_bos.value_or(row.add_bos))},
        {"decoder", byte_level()},
        {"model", model(data, row.ignore_merges)}};
    return json::serialize(document);
}

}  // namespace qshard
