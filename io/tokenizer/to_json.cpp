#include "io/tokenizer/to_json.h"

#include <algorithm>
#include <boost/json.hpp>
#include <vector>

#include "base/error.h"
#include "io/tokenizer/gguf_pretokenizers.h"
#include "io/tokenizer/gguf_vocabulary.h"
#include "io/tokenizer/state.h"

namespace qshard {
namespace {

namespace json = boost::json;

json::array added_tokens(const GgufTokenizerData& data) {
    json::array added;
    for (const tok::AddedToken& token : tok::gguf_added_tokens(data)) {
        added.push_back({{"id", token.id},
                         {"content", token.content},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", token.rstrip},
                         {"normalized", false},
                         {"special", token.special}});
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

/// Adds bos before and eos after the text, as the file asks for; else `plain`.
json::value post_processor(const GgufTokenizerData& data, bool add_bos, json::value plain) {
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
    if (specials.empty()) return plain;
    return {{"type", "TemplateProcessing"},
            {"single", single},
            {"pair", pair},
            {"special_tokens", specials}};
}

json::object bpe(json::value unknown, bool bytes, bool ignore_merges, json::object vocabulary,
                 json::array merges) {
    return {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", std::move(unknown)},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", bytes},
            {"byte_fallback", bytes},
            {"ignore_merges", ignore_merges},
            {"vocab", std::move(vocabulary)},
            {"merges", std::move(merges)}};
}

json::object byte_level_model(const GgufTokenizerData& data, bool ignore_merges) {
    std::vector<bool> added(data.tokens.size());
    for (const tok::AddedToken& token : tok::gguf_added_tokens(data))
        added[static_cast<std::size_t>(token.id)] = true;
    json::object vocabulary;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        if (!added[id] && !data.tokens[id].empty()) vocabulary[data.tokens[id]] = id;
    }
    json::array merges;
    for (const std::string& merge : data.merges) {
        const std::size_t space = merge.find(' ', 1);
        if (space == std::string::npos) throw UserError("GGUF tokenizer: a merge is no pair");
        merges.push_back(json::array{merge.substr(0, space), merge.substr(space + 1)});
    }
    return bpe(nullptr, false, ignore_merges, std::move(vocabulary), std::move(merges));
}

/// As transformers converts SentencePiece models: every cut of a piece is a merge, the best score
/// first. The vocabulary has the specials, too: their ids are in its midst.
json::object sentence_piece_model(const GgufTokenizerData& data) {
    json::object vocabulary;
    for (std::size_t id = 0; id < data.tokens.size(); ++id) {
        if (!data.tokens[id].empty()) vocabulary[data.tokens[id]] = id;
    }
    std::vector<tok::Merge> scored =
        tok::gguf_scored_merges(data, tok::gguf_model_vocabulary(data));
    std::ranges::stable_sort(scored, {}, &tok::Merge::rank);
    json::array merges;
    merges.reserve(scored.size());
    const auto text = [&](std::int32_t id) {
        return json::value(data.tokens[static_cast<std::size_t>(id)]);
    };
    for (const tok::Merge& merge : scored)
        merges.push_back(json::array{text(merge.left), text(merge.right)});
    const auto unknown = static_cast<std::size_t>(data.unk.value_or(0));
    return bpe(json::value(data.tokens.at(unknown)), true, false, std::move(vocabulary),
               std::move(merges));
}

json::object sequence(const char* kind, json::array steps) {
    return {{"type", "Sequence"}, {kind, std::move(steps)}};
}

json::object byte_level_document(const GgufTokenizerData& data) {
    const tok::PreTokenizerRow& row = tok::gguf_pre_tokenizer(data.pre);
    return {
        {"normalizer", nullptr},
        {"pre_tokenizer", pre_tokenizer(row)},
        {"post_processor", post_processor(data, data.add_bos.value_or(row.add_bos), byte_level())},
        {"decoder", byte_level()},
        {"model", byte_level_model(data, row.ignore_merges)}};
}

json::object sentence_piece_document(const GgufTokenizerData& data) {
    const bool add_space = data.add_space_prefix.value_or(true);
    const auto replace = [](const char* from, const char* to) {
        return json::object{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
    };
    json::array normalizers, decoders;
    if (add_space) normalizers.push_back({{"type", "Prepend"}, {"prepend", tok::kSpaceMarker}});
    normalizers.push_back(replace(" ", tok::kSpaceMarker));
    decoders.push_back(replace(tok::kSpaceMarker, " "));
    decoders.push_back(json::object{{"type", "ByteFallback"}});
    decoders.push_back(json::object{{"type", "Fuse"}});
    if (add_space)
        decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    return {{"normalizer", sequence("normalizers", std::move(normalizers))},
            {"pre_tokenizer", nullptr},
            {"post_processor", post_processor(data, data.add_bos.value_or(true), nullptr)},
            {"decoder", sequence("decoders", std::move(decoders))},
            {"model", sentence_piece_model(data)}};
}

}  // namespace

std::string tokenizer_json_of(const GgufTokenizerData& data) {
    Tokenizer::from_gguf(data);  // checks it
    json::object document =
        data.model == "gpt2" ? byte_level_document(data) : sentence_piece_document(data);
    document["version"] = "1.0";
    document["truncation"] = nullptr;
    document["padding"] = nullptr;
    document["added_tokens"] = added_tokens(data);
    return json::serialize(document);
}

}  // namespace qshard
