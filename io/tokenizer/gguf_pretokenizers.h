#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qshard::tok {

/// What a name in tokenizer.ggml.pre stands for: GGUF carries no patterns. The list is llama.cpp's;
/// where its pattern is an adaptation of the model's own, this is the model's own.
struct PreTokenizerRow {
    const char* name;
    std::vector<std::string_view> patterns;
    bool ignore_merges = false, add_bos = false;
};

/// UserError if the name is not known.
const PreTokenizerRow& gguf_pre_tokenizer(const std::string& name);
/// The first name that stands for these, or "" if none does.
std::string gguf_pre_tokenizer_name(const std::vector<std::string>& patterns, bool ignore_merges);

}  // namespace qshard::tok
