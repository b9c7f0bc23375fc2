#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Text to token ids and back, as Hugging Face `tokenizers` does it for the same tokenizer.json.
/// README.md has the design.
namespace qshard {

/// Tokenizer metadata as a GGUF file carries it (filled by the GGUF reader of another module).
struct GgufTokenizerData {
    std::string model;  ///< tokenizer.ggml.model: "gpt2" or "llama"
    std::string pre;    ///< tokenizer.ggml.pre
    std::vector<std::string> tokens, merges;
    std::vector<float> scores;
    std::vector<std::int32_t> token_types;
    std::optional<std::int32_t> bos, eos, unk, pad, eot;
    std::optional<bool> add_bos, add_eos, add_space_prefix;
    /// Specials but <unk>, <s> and <|endoftext|> take the white space behind them: Phi-3's.
    bool specials_strip_right = false;
};

/// A token and the input bytes [begin, end) it stands for. Specials that the post-processor adds
/// are empty spans. A span may begin or end inside a character when several tokens share it.
struct TokenSpan {
    std::int32_t id;
    std::int64_t begin, end;
    bool operator==(const TokenSpan&) const = default;
};

/// Whether special tokens spelled out in the text become their ids (what `tokenizers` does) or are
/// tokenized as plain text (transformers' split_special_tokens: for text of untrusted users).
enum class SpecialsInText { kRecognise, kSplit };

/// Immutable after construction; every const member may be called from any number of threads at
/// once.
class Tokenizer {
  public:
    /// Reads a tokenizer.json of at most 256 MiB, vocabulary at most 1 Mi ids, tokens at most 64
    /// KiB. UserError names the file and what is wrong with it. Truncation and padding settings of
    /// the file are ignored.
    static Tokenizer from_json_file(const std::filesystem::path& tokenizer_json);
    static Tokenizer from_json_text(std::string_view json, const std::string& origin);
    static Tokenizer from_gguf(const GgufTokenizerData& data);

    ~Tokenizer();
    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;

    /// `add_special_tokens` applies the post-processor of the file (add_bos and add_eos of a GGUF).
    /// UserError unless `utf8` is valid UTF-8 below 1 GiB.
    std::vector<std::int32_t> encode(std::string_view utf8, bool add_special_tokens,
                                     SpecialsInText specials = SpecialsInText::kRecognise) const;
    std::vector<TokenSpan> encode_with_offsets(
        std::string_view utf8, bool add_special_tokens,
        SpecialsInText specials = SpecialsInText::kRecognise) const;

    /// Valid UTF-8: bytes that are not become U+FFFD where `tokenizers` puts them. Ids that no
    /// token has are skipped.
    std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const;

    /// The highest id plus one: every id is below it, and a few below it may have no token.
    std::int64_t vocabulary_count() const;
    std::optional<std::int32_t> token_to_id(std::string_view token) const;
    /// The token as the file spells it ("Ġhello"); empty if the id has none.
    std::string id_to_token(std::int32_t id) const;
    bool is_special(std::int32_t id) const;

    /// Hash of the canonical definition: everything that decides ids and text, independent of the
    /// file's formatting. The same tokenizer read from JSON and from GGUF has two hashes.
    std::string sha256() const;

    struct State;

  private:
    explicit Tokenizer(std::unique_ptr<const State> state);
    std::unique_ptr<const State> state_;
};

}  // namespace qshard
