#include "io/tokenizer/gguf_pretokenizers.h"

#include <algorithm>

#include "base/error.h"
#include "io/tokenizer/word_pattern.h"

namespace qshard::tok {
namespace {

constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kThreeDigits = R"([0-9][0-9][0-9])";
/// DeepSeek-LLM's and V2's words: letters that have a case, of most scripts that know it.
constexpr std::string_view kDeepseekWords =
    R"(\s?[)"
    R"(A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽ)"
    R"(Ა-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-)"
    R"(ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆ)"
    R"(ﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃)"
    R"(]+)";
constexpr std::string_view kDeepseekCjk = "[一-龥ࠀ-一가-퟿]+";
constexpr std::string_view kDeepseek3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<PreTokenizerRow>& pre_tokenizer_rows() {
    static const std::vector<PreTokenizerRow> rows = {
        {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", kThreeDigits}},
        {"gpt-2", {kGpt2Pattern}},
        {"mpt", {kGpt2Pattern}},
        {"olmo", {kGpt2Pattern}},
        {"jais", {kGpt2Pattern}},
        {"trillion", {kGpt2Pattern}},
        {"granite-docling", {kGpt2Pattern}},
        {"phi-2", {kGpt2Pattern}},
        {"smollm", {kDigit, kGpt2Pattern}},
        {"starcoder", {kDigit, kGpt2Pattern}},
        {"refact", {kDigit, kGpt2Pattern}},
        {"command-r", {kDigit, kGpt2Pattern}},
        {"codeshell", {kDigit, kGpt2Pattern}},
        {"exaone", {kDigit, kGpt2Pattern}},
        {"minerva-7b", {kDigit, kGpt2Pattern}},
        {"falcon", {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2Pattern, kThreeDigits}},
        {"llama-bpe", {kLlama3Pattern}, true, true},
        {"llama-v3", {kLlama3Pattern}, true, true},
        {"llama3", {kLlama3Pattern}, true, true},
        {"falcon3", {kLlama3Pattern}, true, true},
        {"dbrx", {kLlama3Pattern}},
        {"smaug-bpe", {kLlama3Pattern}},
        {"chatglm-bpe", {kLlama3Pattern}},
        {"glm4", {kLlama3Pattern}},
        {"qwen2", {kQwen2Pattern}},
        {"deepseek-r1-qwen", {kQwen2Pattern}},
        {"stablelm2", {kQwen2Pattern}},
        {"megrez", {kQwen2Pattern}},
        {"qwen35", {kQwen35Pattern}},
        {"deepseek-llm",
         {"[\r\n]", kDeepseekWords, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", R"(\s+$)", kDeepseekCjk,
          kDigit}},
        {"deepseek-coder", {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekCjk, kDigit}},
        {"deepseek-v3", {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", kDeepseek3Pattern}},
        {"tekken", {kTekkenPattern}, true, true},
        {"gpt-4o", {kGpt4oPattern}},
        {"llama4", {kGpt4oPattern}}};
    return rows;
}

}  // namespace

const PreTokenizerRow& gguf_pre_tokenizer(const std::string& name) {
    for (const PreTokenizerRow& row : pre_tokenizer_rows()) {
        if (name == row.name) return row;
    }
    throw UserError(
        fmt::format("GGUF tokenizer: the pre-tokenizer \"{}\" (tokenizer.ggml.pre) is not known, "
                    "and the file has no "
                    "patterns; put the model's tokenizer.json next to it",
                    name));
}

std::string gguf_pre_tokenizer_name(const std::vector<std::string>& patterns, bool ignore_merges) {
    for (const PreTokenizerRow& row : pre_tokenizer_rows()) {
        if (row.ignore_merges == ignore_merges &&
            std::equal(row.patterns.begin(), row.patterns.end(), patterns.begin(),
                       patterns.end())) {
            return row.name;
        }
    }
    return "";
}

}  // namespace qshard::tok
