#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/digest.h"
#include "io/tokenizer/gguf_pretokenizers.h"
#include "io/tokenizer/gguf_vocabulary.h"
#include "io/tokenizer/state.h"
#include "io/tokenizer/word_pattern.h"

namespace qshard {
namespace tok {
namespace {

class Builder {
  public:
    explicit Builder(const GgufTokenizerData& data)
        : data_(data), state_(std::make_unique<Tokenizer::State>()) {}

    std::unique_ptr<const Tokenizer::State> build() {
        state_->serial = next_serial();
        if (data_.tokens.empty()) throw UserError("GGUF tokenizer: it has no tokens");
        check_count("token_type", data_.token_types.size());
        check_count("scores", data_.scores.size());
        if (std::ranges::any_of(data_.scores, [](float score) { return std::isnan(score); }))
            throw UserError("GGUF tokenizer: a score is not a number");
        for (std::size_t id = 0; id < data_.tokens.size(); ++id) {
            state_->vocabulary.insert(static_cast<std::int64_t>(id), data_.tokens[id]);
        }
        if (data_.model == "gpt2") {
            build_byte_level();
        } else if (data_.model == "llama") {
            build_sentence_piece();
        } else {
            throw UserError(fmt::format(
                "GGUF tokenizer: the model \"{}\" is not supported; gpt2 and llama are. Put the "
                "model's tokenizer.json next to it",
                data_.model));
        }
        add_specials();
        add_digest();
        return std::move(state_);
    }

  private:
    void check_count(const char* key, std::size_t count) const {
        if (count != 0 && count != data_.tokens.size()) {
            throw UserError(fmt::format("GGUF tokenizer: {} has {} entries for {} tokens", key,
                                        count, data_.tokens.size()));
        }
    }

    void build_byte_level() {
        const PreTokenizerRow& row = gguf_pre_tokenizer(data_.pre);
        for (const std::string_view pattern : row.patterns) {
            state_->pre_tokenizer.add(
                make_split(make_pattern(pattern), SplitBehavior::kIsolated, false));
        }
        BpeDefinition bpe;
        bpe.byte_level = true;
        bpe.ignore_merges = row.ignore_merges;
        bpe.vocabulary = gguf_model_vocabulary(data_);
        for (const std::string& text : data_.merges) add_text_merge(bpe, text);
        state_->model = std::make_unique<Bpe>(std::move(bpe));
        state_->decoder.add(make_byte_level_decoder());
        add_bos_ = data_.add_bos.value_or(row.add_bos);
    }

    static void add_text_merge(BpeDefinition& bpe, const std::string& text) {
        const std::size_t space = text.find(' ', 1);
        if (text.empty() || space == std::string::npos) {
            throw UserError(fmt::format(
                "GGUF tokenizer: the merge \"{}\" is not two tokens and a space", text));
        }
        const std::string left = text.substr(0, space), right = text.substr(space + 1);
        Merge merge{bpe.vocabulary.find(left), bpe.vocabulary.find(right),
                    narrow<std::int32_t>(bpe.merges.size()), bpe.vocabulary.find(left + right)};
        if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
            throw UserError(fmt::format(
                "GGUF tokenizer: the merge \"{}\" refers to a token that is not in the vocabulary",
                text));
        }
        bpe.merges.push_back(merge);
    }

    void build_sentence_piece() {
        if (data_.scores.empty())
            throw UserError("GGUF tokenizer: the model \"llama\" needs scores");
        const bool add_space = data_.add_space_prefix.value_or(true);
        if (add_space) state_->normalizer.add(make_prepend(kSpaceMarker));
        state_->normalizer.add(make_replace(make_literal(" "), kSpaceMarker));
        BpeDefinition bpe;
        bpe.vocabulary = gguf_model_vocabulary(data_);
        bpe.byte_fallback = true;
        bpe.unknown = data_.unk.value_or(0);
        check_id("unknown_token_id", bpe.unknown);
        bpe.merges = gguf_scored_merges(data_, bpe.vocabulary);
        auto model = std::make_unique<Bpe>(std::move(bpe));
        if (const auto across = model->tokens_across(kSpaceMarker))
            state_->pre_tokenizer.add(make_cut_before(kSpaceMarker, *across));
        state_->model = std::move(model);
        state_->decoder.add(make_replace_decoder(make_literal(kSpaceMarker), " "));
        state_->decoder.add(make_byte_fallback_decoder());
        state_->decoder.add(make_fuse_decoder());
        if (add_space) state_->decoder.add(make_strip_decoder(" ", 1, 0));
        add_bos_ = data_.add_bos.value_or(true);
    }

    void check_id(const char* key, std::int32_t id) const {
        if (!state_->vocabulary.contains(id)) {
            throw UserError(fmt::format("GGUF tokenizer: {} is {}, but there are {} tokens", key,
                                        id, data_.tokens.size()));
        }
    }

    void add_specials() {
        set_added_tokens(*state_, gguf_added_tokens(data_));
        if (add_bos_ && data_.bos) {
            check_id("bos_token_id", *data_.bos);
            state_->prefix.push_back(*data_.bos);
        }
        if (data_.add_eos.value_or(false) && data_.eos) {
            check_id("eos_token_id", *data_.eos);
            state_->suffix.push_back(*data_.eos);
        }
    }

    void add_digest() {
        Digest digest;
        digest.add(fmt::format("gguf {} {} {} {}", data_.model, data_.pre, data_.unk.value_or(-1),
                               data_.add_space_prefix.value_or(true)));
        digest.add(
            fmt::format("{} {}", fmt::join(state_->prefix, ","), fmt::join(state_->suffix, ",")));
        digest.add(state_->vocabulary);
        digest.add(fmt::format("{}", fmt::join(data_.token_types, ",")));
        for (const std::string& merge : data_.merges) digest.add(merge);
        if (data_.specials_strip_right) digest.add("specials strip right");
        if (data_.model == "llama") digest.add(fmt::format("{}", fmt::join(data_.scores, ",")));
        state_->digest = digest.hex();
    }

    const GgufTokenizerData& data_;
    std::unique_ptr<Tokenizer::State> state_;
    bool add_bos_ = false;
};

}  // namespace
}  // namespace tok

Tokenizer Tokenizer::from_gguf(const GgufTokenizerData& data) {
    return Tokenizer(tok::Builder(data).build());
}

}  // namespace qshard
