#include <fstream>
#include <functional>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/digest.h"
#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/state.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/unigram.h"
#include "io/tokenizer/word_pattern.h"

namespace qshard {
namespace tok {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;

using State = Tokenizer::State;

[[noreturn]] void fail_unknown(const JsonField& component, const char* kind,
                               const std::string& type) {
    component.fail(fmt::format("the {} \"{}\" is not supported", kind, type));
}

// Runs an action; an error in it that names no place gets the field's path.
template <class Action>
auto within(const JsonField& field, Action action) {
    try {
        return action();
    } catch (const UserError& error) {
        field.fail(error.what());
    }
}

std::unique_ptr<Matcher> read_pattern(const JsonField& pattern) {
    return within(pattern, [&]() -> std::unique_ptr<Matcher> {
        if (pattern.value().is_string()) return make_literal(pattern.string());
        if (!pattern["String"].is_null()) return make_literal(pattern["String"].string());
        if (!pattern["Regex"].is_null()) return make_pattern(pattern["Regex"].string());
        throw UserError("expected a String or a Regex");
    });
}

// ---- normalizer

void read_normalizer(Normalizer& normalizer, const JsonField& field) {
    if (field.is_null()) return;
    const std::string type = field["type"].string();
    if (type == "Sequence") {
        const JsonField steps = field["normalizers"];
        for (std::size_t i = 0; i < steps.array().size(); ++i)
            read_normalizer(normalizer, steps[i]);
    } else if (type == "NFC") {
        normalizer.add(make_unicode_form(UnicodeForm::kNfc));
    } else if (type == "NFD") {
        normalizer.add(make_unicode_form(UnicodeForm::kNfd));
    } else if (type == "NFKC") {
        normalizer.add(make_unicode_form(UnicodeForm::kNfkc));
    } else if (type == "NFKD") {
        normalizer.add(make_unicode_form(UnicodeForm::kNfkd));
    } else if (type == "Lowercase") {
        normalizer.add(make_lowercase());
    } else if (type == "Strip") {
        normalizer.add(make_strip(field.boolean_or("strip_left", true),
                                  field.boolean_or("strip_right", true)));
    } else if (type == "StripAccents") {
        normalizer.add(make_strip_accents());
    } else if (type == "Replace") {
        normalizer.add(make_replace(read_pattern(field["pattern"]), field["content"].string()));
    } else if (type == "Prepend") {
        normalizer.add(make_prepend(field["prepend"].string()));
    } else {
        fail_unknown(field, "normalizer", type);
    }
}

// ---- pre-tokenizer

SplitBehavior read_behavior(const JsonField& field) {
    static const std::map<std::string, SplitBehavior> kBehaviors = {
        {"Removed", SplitBehavior::kRemoved},
        {"Isolated", SplitBehavior::kIsolated},
        {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
        {"MergedWithNext", SplitBehavior::kMergedWithNext},
        {"Contiguous", SplitBehavior::kContiguous}};
    const auto found = kBehaviors.find(field.string());
    if (found == kBehaviors.end()) fail_unknown(field, "split behaviour", field.string());
    return found->second;
}

PrependScheme read_prepend_scheme(const JsonField& metaspace) {
    const bool by_flag = metaspace.boolean_or("add_prefix_space", true);
    const std::string scheme = metaspace.string_or("prepend_scheme", by_flag ? "always" : "never");
    if (scheme == "always") return PrependScheme::kAlways;
    if (scheme == "first") return PrependScheme::kFirst;
    if (scheme == "never") return PrependScheme::kNever;
    fail_unknown(metaspace, "prepend_scheme", scheme);
}

std::string read_character(const JsonField& field) {
    const std::string text = field.string();
    if (text.empty() || decode_char(text.data()).bytes != text.size())
        field.fail("expected one character");
    return text;
}

// The components of a pre-tokenizer without its Sequences.
std::vector<JsonField> flatten(const JsonField& field, std::string_view list) {
    if (field.is_null()) return {};
    if (field["type"].string() != "Sequence") return {field};
    std::vector<JsonField> all;
    for (std::size_t i = 0; i < field[list].array().size(); ++i) {
        for (JsonField& inner : flatten(field[list][i], list)) all.push_back(std::move(inner));
    }
    return all;
}

// `last`: nothing follows, so that the model can take raw bytes instead of their spelling.
void add_byte_level(PreTokenizer& pre_tokenizer, const JsonField& field, bool last) {
    if (field.boolean_or("add_prefix_space", true)) pre_tokenizer.add(make_add_prefix_space());
    if (field.boolean_or("use_regex", true)) {
        pre_tokenizer.add(make_split(make_pattern(kGpt2Pattern), SplitBehavior::kIsolated, false));
    }
    if (!last) pre_tokenizer.add(make_byte_spelling());
}

void add_pre_tokenizer(PreTokenizer& pre_tokenizer, const JsonField& field, bool last) {
    const std::string type = field["type"].string();
    const auto split = [&](std::unique_ptr<Matcher> matcher, SplitBehavior behavior,
                           bool invert = false) {
        pre_tokenizer.add(make_split(std::move(matcher), behavior, invert));
    };
    if (type == "ByteLevel") {
        add_byte_level(pre_tokenizer, field, last);
    } else if (type == "Split") {
        split(read_pattern(field["pattern"]), read_behavior(field["behavior"]),
              field.boolean_or("invert", false));
    } else if (type == "Digits") {
        split(make_class_matcher(kNumber), field.boolean_or("individual_digits", false)
                                               ? SplitBehavior::kIsolated
                                               : SplitBehavior::kContiguous);
    } else if (type == "Punctuation") {
        split(make_class_matcher(kPunctuation), field["behavior"].is_null()
                                                    ? SplitBehavior::kIsolated
                                                    : read_behavior(field["behavior"]));
    } else if (type == "Whitespace") {
        split(make_word_or_symbol_matcher(), SplitBehavior::kRemoved, true);
    } else if (type == "WhitespaceSplit") {
        split(make_class_matcher(kSpace), SplitBehavior::kRemoved);
    } else if (type == "Metaspace") {
        pre_tokenizer.add(make_metaspace(read_character(field["replacement"]),
                                         read_prepend_scheme(field),
                                         field.boolean_or("split", true)));
    } else {
        fail_unknown(field, "pre-tokenizer", type);
    }
}

// True if the model gets raw bytes.
bool read_pre_tokenizer(PreTokenizer& pre_tokenizer, const JsonField& field) {
    const std::vector<JsonField> steps = flatten(field, "pretokenizers");
    for (std::size_t i = 0; i < steps.size(); ++i) {
        add_pre_tokenizer(pre_tokenizer, steps[i], i + 1 == steps.size());
    }
    return !steps.empty() && steps.back()["type"].string() == "ByteLevel";
}

// ---- model

Vocabulary read_bpe_vocabulary(const JsonField& field) {
    Vocabulary vocabulary;
    for (const auto& member : field.object()) {
        if (!member.value().is_int64())
            field.fail(fmt::format("\"{}\": expected an integer id",
                                   std::string_view(member.key().data(), member.key().size())));
        within(field, [&] {
            vocabulary.insert(member.value().get_int64(),
                              {member.key().data(), member.key().size()});
        });
    }
    return vocabulary;
}

std::pair<std::string, std::string> read_merge(const JsonField& field) {
    if (field.value().is_array()) {
        if (field.array().size() != 2) field.fail("expected two tokens");
        return {field[0].string(), field[1].string()};
    }
    const std::string text = field.string();
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        field.fail(fmt::format("expected two tokens and a space, found \"{}\"", text));
    }
    return {text.substr(0, space), text.substr(space + 1)};
}

void read_merges(BpeDefinition& bpe, const JsonField& field) {
    const auto id_of = [&](const JsonField& merge, std::string_view token) {
        const std::int32_t id = bpe.vocabulary.find(token);
        if (id < 0)
            merge.fail(
                fmt::format("the merge refers to \"{}\", which is not in the vocabulary", token));
        return id;
    };
    for (std::size_t i = 0; i < field.array().size(); ++i) {
        const JsonField merge = field[i];
        if (merge.value().is_string() && merge.string().starts_with("#version")) continue;
        const auto [left, right] = read_merge(merge);
        if (right.size() < bpe.continuing_prefix.size())
            merge.fail("the right token is shorter than the prefix");
        const std::string merged = left + right.substr(bpe.continuing_prefix.size());
        bpe.merges.push_back({id_of(merge, left), id_of(merge, right),
                              narrow<std::int32_t>(bpe.merges.size()), id_of(merge, merged)});
    }
}

std::unique_ptr<Model> read_bpe(State& state, const JsonField& field, bool byte_level,
                                Digest& digest) {
    if (!field["dropout"].is_null() && field["dropout"].number() != 0.0) {
        field["dropout"].fail(
            "BPE dropout makes tokens random and is not supported; set it to null");
    }
    BpeDefinition bpe;
    bpe.byte_level = byte_level;
    bpe.byte_fallback = field.boolean_or("byte_fallback", false);
    bpe.fuse_unknown = field.boolean_or("fuse_unk", false);
    bpe.ignore_merges = field.boolean_or("ignore_merges", false);
    bpe.continuing_prefix = field.string_or("continuing_subword_prefix", "");
    bpe.word_suffix = field.string_or("end_of_word_suffix", "");
    bpe.vocabulary = read_bpe_vocabulary(field["vocab"]);
    read_merges(bpe, field["merges"]);
    if (!field["unk_token"].is_null()) {
        const std::string unknown = field["unk_token"].string();
        bpe.unknown = bpe.vocabulary.find(unknown);
        if (bpe.unknown < 0)
            field["unk_token"].fail(fmt::format("\"{}\" is not in the vocabulary", unknown));
    }
    digest.add(fmt::format("bpe {} {} {} {} {}", bpe.byte_fallback, bpe.fuse_unknown,
                           bpe.ignore_merges, bpe.unknown, byte_level));
    digest.add(bpe.continuing_prefix);
    digest.add(bpe.word_suffix);
    digest.add(bpe.vocabulary);
    for (const Merge& m : bpe.merges) digest.add(fmt::format("{} {}", m.left, m.right));
    state.vocabulary = bpe.vocabulary;
    auto model = std::make_unique<Bpe>(std::move(bpe));
    if (const auto across = model->tokens_across(kSpaceMarker))
        state.pre_tokenizer.add(make_cut_before(kSpaceMarker, *across));
    return model;
}

std::unique_ptr<Model> read_unigram(State& state, const JsonField& field, Digest& digest) {
    UnigramDefinition unigram;
    const JsonField vocabulary = field["vocab"];
    for (std::size_t id = 0; id < vocabulary.array().size(); ++id) {
        const JsonField entry = vocabulary[id];
        within(entry, [&] {
            unigram.vocabulary.insert(static_cast<std::int64_t>(id), entry[0].string());
        });
        unigram.scores.push_back(entry[1].number());
    }
    unigram.byte_fallback = field.boolean_or("byte_fallback", false);
    if (!field["unk_id"].is_null()) {
        const std::int64_t id = field["unk_id"].integer();
        if (id < 0 || id >= unigram.vocabulary.count())
            field["unk_id"].fail("is outside the vocabulary");
        unigram.unknown = static_cast<std::int32_t>(id);
    }
    digest.add(fmt::format("unigram {} {}", unigram.byte_fallback, unigram.unknown));
    digest.add(unigram.vocabulary);
    for (const double score : unigram.scores) digest.add(fmt::format("{}", score));
    state.vocabulary = unigram.vocabulary;
    return std::make_unique<Unigram>(std::move(unigram));
}

void read_model(State& state, const JsonField& field, bool byte_level, Digest& digest) {
    // Old files leave the type out.
    const char* guess = !field["merges"].is_null()          ? "BPE"
                        : field["vocab"].value().is_array() ? "Unigram"
                                                            : "WordPiece";
    const std::string type = field.string_or("type", guess);
    if (type == "BPE") {
        state.model = read_bpe(state, field, byte_level, digest);
    } else if (type == "Unigram") {
        if (byte_level) state.pre_tokenizer.add(make_byte_spelling());
        state.model = read_unigram(state, field, digest);
    } else {
        fail_unknown(field, "model", type);
    }
}

// ---- added tokens, post-processor, decoder

void read_added_tokens(State& state, const JsonField& field) {
    if (field.is_null()) return set_added_tokens(state, {});
    std::vector<AddedToken> tokens;
    for (std::size_t i = 0; i < field.array().size(); ++i) {
        const JsonField entry = field[i];
        AddedToken token;
        token.content = entry["content"].string();
        token.special = entry.boolean_or("special", false);
        token.single_word = entry.boolean_or("single_word", false);
        token.lstrip = entry.boolean_or("lstrip", false);
        token.rstrip = entry.boolean_or("rstrip", false);
        token.normalized = entry.boolean_or("normalized", !token.special);
        if (token.content.empty()) continue;
        const std::int32_t known = state.vocabulary.find(token.content);
        const std::int64_t id = known >= 0 ? known : entry["id"].integer();
        within(entry, [&] { state.vocabulary.insert(id, token.content); });
        token.id = static_cast<std::int32_t>(id);
        tokens.push_back(std::move(token));
    }
    set_added_tokens(state, std::move(tokens));
}

using Ids = std::vector<std::int32_t>;

std::int32_t read_known_id(const State& state, const JsonField& field) {
    const std::int64_t id = field.integer();
    if (id < 0 || id >= state.vocabulary.count())
        field.fail(fmt::format("no token has the id {}", id));
    return static_cast<std::int32_t>(id);
}

void read_template(State& state, const JsonField& field) {
    Ids before, after;
    bool seen_text = false;
    const JsonField items = field["single"];
    for (std::size_t i = 0; i < items.array().size(); ++i) {
        const JsonField item = items[i];
        if (!item["Sequence"].is_null()) {
            if (seen_text || item["Sequence"]["id"].string() != "A")
                item.fail("expected the sequence A once");
            seen_text = true;
            continue;
        }
        const JsonField ids = field["special_tokens"][item["SpecialToken"]["id"].string()]["ids"];
        for (std::size_t k = 0; k < ids.array().size(); ++k) {
            (seen_text ? after : before).push_back(read_known_id(state, ids[k]));
        }
    }
    if (!seen_text) items.fail("the template leaves out the text");
    state.prefix.insert(state.prefix.begin(), before.begin(), before.end());
    state.suffix.insert(state.suffix.end(), after.begin(), after.end());
}

void read_post_processor(State& state, const JsonField& field) {
    if (field.is_null()) return;
    const std::string type = field["type"].string();
    if (type == "Sequence") {
        const JsonField steps = field["processors"];
        for (std::size_t i = 0; i < steps.array().size(); ++i) read_post_processor(state, steps[i]);
    } else if (type == "TemplateProcessing") {
        read_template(state, field);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
        state.prefix.insert(state.prefix.begin(), read_known_id(state, field["cls"][1]));
        state.suffix.push_back(read_known_id(state, field["sep"][1]));
    } else if (type != "ByteLevel") {  // which only trims offsets
        fail_unknown(field, "post-processor", type);
    }
}

void read_decoder(Decoder& decoder, const JsonField& field) {
    if (field.is_null()) return;
    const std::string type = field["type"].string();
    if (type == "Sequence") {
        const JsonField steps = field["decoders"];
        for (std::size_t i = 0; i < steps.array().size(); ++i) read_decoder(decoder, steps[i]);
    } else if (type == "ByteLevel") {
        decoder.add(make_byte_level_decoder());
    } else if (type == "ByteFallback") {
        decoder.add(make_byte_fallback_decoder());
    } else if (type == "Fuse") {
        decoder.add(make_fuse_decoder());
    } else if (type == "Replace") {
        decoder.add(
            make_replace_decoder(read_pattern(field["pattern"]), field["content"].string()));
    } else if (type == "Strip") {
        decoder.add(make_strip_decoder(read_character(field["content"]), field["start"].integer(),
                                       field["stop"].integer()));
    } else if (type == "Metaspace") {
        decoder.add(make_metaspace_decoder(read_character(field["replacement"]),
                                           read_prepend_scheme(field) != PrependScheme::kNever));
    } else if (type == "BPEDecoder") {
        decoder.add(make_suffix_decoder(field.string_or("suffix", "</w>")));
    } else {
        fail_unknown(field, "decoder", type);
    }
}

std::string read_file(const std::filesystem::path& path) {
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (error) throw UserError(fmt::format("reading {}: {}", path.string(), error.message()));
    if (bytes > kMaxFileBytes) {
        throw UserError(fmt::format("reading {}: {} bytes; a tokenizer.json has at most {}",
                                    path.string(), bytes, kMaxFileBytes));
    }
    std::string text(bytes, '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(text.data(), static_cast<std::streamsize>(bytes))) {
        throw SystemError(fmt::format("reading {}: the file could not be read", path.string()));
    }
    return text;
}

}  // namespace
}  // namespace tok

Tokenizer Tokenizer::from_json_file(const std::filesystem::path& tokenizer_json) {
    return from_json_text(tok::read_file(tokenizer_json), tokenizer_json.string());
}

Tokenizer Tokenizer::from_json_text(std::string_view json, const std::string& origin) {
    const boost::json::value document = tok::parse_json(json, origin, tok::kMaxFileBytes);
    const tok::JsonField root(document, origin);
    if (const std::string version = root.string_or("version", "1.0"); version != "1.0") {
        root["version"].fail(fmt::format("expected \"1.0\", found \"{}\"", version));
    }
    if (root["model"].is_null()) root.fail("not a tokenizer.json: it has no model");
    auto state = std::make_unique<State>();
    state->serial = tok::next_serial();
    tok::Digest digest;
    tok::read_normalizer(state->normalizer, root["normalizer"]);
    const bool byte_level = tok::read_pre_tokenizer(state->pre_tokenizer, root["pre_tokenizer"]);
    tok::read_model(*state, root["model"], byte_level, digest);
    tok::read_added_tokens(*state, root["added_tokens"]);
    tok::read_post_processor(*state, root["post_processor"]);
    tok::read_decoder(state->decoder, root["decoder"]);
    for (const char* part :
         {"normalizer", "pre_tokenizer", "added_tokens", "post_processor", "decoder"}) {
        std::string text;
        tok::append_canonical(text, root[part].value());
        digest.add(text);
    }
    state->digest = digest.hex();
    return Tokenizer(std::move(state));
}

}  // namespace qshard
