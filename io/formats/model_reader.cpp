#include "io/formats/model_reader.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "io/formats/gguf.h"
#include "io/formats/gguf_model.h"
#include "io/formats/hf_model.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxTemplate = std::size_t{16} << 20;

std::optional<std::filesystem::path> existing(const std::filesystem::path& path) {
    return std::filesystem::is_regular_file(path) ? std::optional(path) : std::nullopt;
}

/// "chat_template" of tokenizer_config.json: a text, or a list of named ones of which "default"
/// counts.
std::string configured_template(const std::filesystem::path& tokenizer_config) {
    const std::string origin = tokenizer_config.string();
    const boost::json::value document =
        parse_strict_json(InputFile(tokenizer_config).text(kMaxTemplate), origin,
                          {.bytes = kMaxTemplate, .non_finite = true});
    if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
    JsonKeys keys(document.get_object(), origin);
    const boost::json::value* value = keys.find("chat_template");
    if (value == nullptr) return {};
    if (!value->is_array()) return keys.text("chat_template").value_or("");
    for (const boost::json::value& item : value->get_array()) {
        if (!item.is_object()) keys.fail("chat_template", "a text or a list of named templates");
        JsonKeys named(item.get_object(), origin + ": \"chat_template\"");
        if (named.text("name") == "default") return named.text("template").value_or("");
    }
    return {};
}

void find_tokenizer_files(const std::filesystem::path& folder, ModelSource& source) {
    source.tokenizer_json = existing(folder / "tokenizer.json");
    source.tokenizer_config = existing(folder / "tokenizer_config.json");
    const std::optional<std::filesystem::path> separate = existing(folder / "chat_template.jinja");
    if (separate) {
        source.chat_template = InputFile(*separate).text(kMaxTemplate);
    } else if (source.tokenizer_config && source.chat_template.empty()) {
        source.chat_template = configured_template(*source.tokenizer_config);
    }
}

ModelSource open_gguf(const std::filesystem::path& path) {
    ModelSource source;
    auto file = std::make_shared<const GgufFile>(InputFile(path));
    source.kind = "gguf";
    source.path = path;
    source.weights = open_gguf_model(file);
    source.gguf_tokenizer = gguf_tokenizer(*file);
    if (const std::string* text = file->text("tokenizer.chat_template"))
        source.chat_template = *text;
    return source;
}

}  // namespace

ModelSource open_model_source(const std::filesystem::path& folder_or_gguf) {
    std::error_code error;
    const auto status = std::filesystem::status(folder_or_gguf, error);
    if (!std::filesystem::exists(status)) {
        throw UserError(fmt::format("there is no model at {}", folder_or_gguf.string()));
    }
    if (std::filesystem::is_directory(status)) {
        ModelSource source;
        source.kind = "safetensors";
        source.path = folder_or_gguf;
        source.weights = open_hugging_face_model(folder_or_gguf);
        find_tokenizer_files(folder_or_gguf, source);
        return source;
    }
    if (folder_or_gguf.extension() != ".gguf") {
        throw UserError(
            fmt::format("{}: expected a .gguf file or a folder with config.json and safetensors\n"
                        "Pickled files (.bin, .pt) are never read.",
                        folder_or_gguf.string()));
    }
    return open_gguf(folder_or_gguf);
}

std::unique_ptr<WeightReader> open_model(const std::filesystem::path& folder_or_gguf) {
    return open_model_source(folder_or_gguf).weights;
}

}  // namespace qshard
