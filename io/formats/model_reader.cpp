#include "io/formats/model_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "io/formats/dequantized.h"
#include "io/formats/gguf_files.h"
#include "io/formats/gguf_model.h"
#include "io/formats/hf_model.h"
#include "io/formats/hub_cache.h"
#include "io/formats/weight_store.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

constexpr std::size_t kMaxTemplate = std::size_t{16} << 20;
constexpr std::size_t kMaxTokenizer = std::size_t{256} << 20;

std::optional<ModelText> text_of(const ModelFolder& folder, const std::string& name,
                                 std::size_t limit) {
    if (!folder.has(name)) return std::nullopt;
    return ModelText{(folder.path() / name).string(), folder.open(name).text(limit)};
}

constexpr const char* kTemplateFolder = "additional_chat_templates";
constexpr std::size_t kMaxTemplates = 64;

using NamedTemplates = std::map<std::string, std::string>;

/// "chat_template" of tokenizer_config.json or chat_template.json: a text, or a list of named ones.
NamedTemplates configured_templates(const ModelText& tokenizer_config) {
    const std::string& origin = tokenizer_config.origin;
    const boost::json::value document = parse_strict_json(
        tokenizer_config.text, origin, {.bytes = kMaxTemplate, .non_finite = true});
    if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
    JsonKeys keys(document.get_object(), origin);
    const boost::json::value* value = keys.find("chat_template");
    if (value == nullptr) return {};
    NamedTemplates templates;
    if (!value->is_array()) {
        templates["default"] = keys.text("chat_template").value_or("");
        return templates;
    }
    for (const boost::json::value& item : value->get_array()) {
        if (!item.is_object()) keys.fail("chat_template", "a text or a list of named templates");
        JsonKeys named(item.get_object(), origin + ": \"chat_template\"");
        const auto name = named.text("name"), text = named.text("template");
        if (!name || !text) named.fail("name", "a name and a template");
        templates[*name] = *text;
    }
    return templates;
}

/// As transformers: the files of templates, if there are any, count before the configuration's.
NamedTemplates templates_of(const ModelFolder& folder,
                            const std::optional<ModelText>& tokenizer_config) {
    NamedTemplates templates;
    if (tokenizer_config) templates = configured_templates(*tokenizer_config);
    if (const auto file = text_of(folder, "chat_template.jinja", kMaxTemplate)) {
        templates = {{"default", file->text}};
    }
    const std::vector<std::string> names = folder.names_in(kTemplateFolder);
    if (names.size() > kMaxTemplates) {
        throw UserError(fmt::format("{}/{} has more than {} files", folder.path().string(),
                                    kTemplateFolder, kMaxTemplates));
    }
    for (const std::string& name : names) {
        if (!name.ends_with(".jinja")) continue;
        templates[name.substr(0, name.size() - 6)] =
            folder.open_in(kTemplateFolder, name).text(kMaxTemplate);
    }
    if (templates.empty()) {  // where models that take images too have had theirs
        if (const auto file = text_of(folder, "chat_template.json", kMaxTemplate))
            templates = configured_templates(*file);
    }
    std::erase_if(templates, [](const auto& one) { return one.second.empty(); });
    return templates;
}

/// Names what a folder that is no Hugging Face model has instead.
[[noreturn]] void refuse_folder(const std::filesystem::path& folder) {
    std::set<std::string> names;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        if (entry.path().extension() == ".gguf") names.insert(entry.path().filename().string());
    }
    std::string message =
        fmt::format("{}: a folder without config.json is no Hugging Face model", folder.string());
    if (!names.empty()) {
        message +=
            fmt::format("\nIt has GGUF files; give the path of one: {}", fmt::join(names, ", "));
    }
    throw UserError(message);
}

ModelSource open_folder(const ModelFolder& folder,
                        std::optional<bool> tied_in_store = std::nullopt) {
    ModelSource source;
    source.kind = "safetensors";
    source.weights = open_hugging_face_model(folder, tied_in_store);
    source.tokenizer_json = text_of(folder, "tokenizer.json", kMaxTokenizer);
    source.tokenizer_config = text_of(folder, "tokenizer_config.json", kMaxTemplate);
    source.special_tokens_map = text_of(folder, "special_tokens_map.json", kMaxTemplate);
    source.chat_templates = templates_of(folder, source.tokenizer_config);
    return source;
}

ModelSource open_gguf(const std::shared_ptr<const GgufFile>& file) {
    ModelSource source;
    source.kind = "gguf";
    source.weights = open_gguf_model(file);
    source.gguf_tokenizer = gguf_tokenizer(*file);
    // llama.cpp's keys: "tokenizer.chat_template" is the default, "tokenizer.chat_template.NAME"
    // the one of that name.
    static constexpr std::string_view kKey = "tokenizer.chat_template";
    for (const auto& [key, value] : file->metadata()) {
        if (!key.starts_with(kKey)) continue;
        const std::string_view name = std::string_view(key).substr(kKey.size());
        if (!name.empty() && name.front() != '.') continue;
        if (const std::string* text = file->text(key))
            source.chat_templates[name.empty() ? "default" : std::string(name.substr(1))] = *text;
    }
    return source;
}

/// A weight store's weights: the model's in everything but where the bytes are.
class StoreModel final : public WeightReader, private StoredUnits {
  public:
    StoreModel(WeightStore store, std::unique_ptr<WeightReader> source)
        : store_(std::move(store)),
          source_(std::move(source)),
          options_(layout_options_for(*source_, store_.table().quantization,
                                      store_.table().double_quant, store_.table().plain_dtype)),
          layout_(make_layout(source_->config(), options_)) {
        const StoreTable& table = store_.table();
        bool fits = layout_digest(layout_) == table.layout_sha256 &&
                    table.units.size() == layout_.units.size() &&
                    source_->has_sha256(table.source_sha256);
        for (std::size_t u = 0; fits && u < layout_.units.size(); ++u)
            fits = table.units[u].bytes == layout_.units[u].bytes;
        if (!fits) {
            throw UserError(fmt::format(
                "{}: the weight store was made by another version of this program ({})\nMake it "
                "again with qshard quantize.",
                store_.file()->name(), table.made_by));
        }
        for (std::size_t u = 0; u < layout_.units.size(); ++u) {
            for (const Field& field : layout_.units[u].fields)
                places_.emplace(field.weight.name, std::pair(u, &field));
        }
    }

    const ModelConfig& config() const override { return source_->config(); }
    DType source_dtype(const WeightSpec& weight) const override {
        return source_->source_dtype(weight);
    }
    WeightForm form(const WeightSpec& weight) const override {
        const Field& field = *place(weight).second;
        return {field.storage, field.double_quant};
    }
    void read_part(const WeightSpec& weight, StoredPart wanted, std::size_t first,
                   std::span<std::byte> out) const override {
        const auto& [unit, field] = place(weight);
        for (const FieldPart& part : parts_of(*field)) {
            if (part.part == wanted) return store_.read(unit, part.begin + first, out);
        }
        throw BugError("the weight has no such part");
    }
    void read(const WeightSpec& weight, std::int64_t first, std::span<float> out) const override {
        const Field& field = *place(weight).second;
        if (field.storage != Storage::kPlain) return read_dequantized(*this, weight, first, out);
        const std::size_t item = bytes_of(field.dtype);
        std::vector<std::byte> raw(out.size() * item);
        read_part(weight, StoredPart::kData, static_cast<std::size_t>(first) * item, raw);
        traits_of(field.dtype == DType::kBF16 ? GgmlType::kBF16 : GgmlType::kF32)
            .dequantize(raw.data(), std::ssize(out), out.data());
    }
    std::string sha256() const override { return source_->sha256(); }
    bool has_sha256(const std::string& recorded) const override {
        return source_->has_sha256(recorded);
    }
    std::int64_t file_bytes() const override {
        return static_cast<std::int64_t>(store_.file()->bytes());
    }
    std::vector<std::string> notes() const override { return source_->notes(); }
    const StoredUnits* stored_units() const override { return this; }

  private:
    const LayoutOptions& options() const override { return options_; }
    void read(std::string_view unit, std::size_t first, std::span<std::byte> out) const override {
        store_.read(index_of(unit), first, out);
    }
    void check_sum(std::string_view unit, const PositionSum& found) const override {
        store_.check_sum(index_of(unit), found);
    }
    std::size_t index_of(std::string_view unit) const {
        const auto it = std::find_if(layout_.units.begin(), layout_.units.end(),
                                     [&](const UnitLayout& layout) { return layout.name == unit; });
        check(it != layout_.units.end(), "the unit is one of the store's");
        return static_cast<std::size_t>(it - layout_.units.begin());
    }
    const std::pair<std::size_t, const Field*>& place(const WeightSpec& weight) const {
        const auto it = places_.find(weight.name);
        check(it != places_.end(), "the weight belongs to the model");
        return it->second;
    }

    WeightStore store_;
    std::unique_ptr<WeightReader> source_;
    LayoutOptions options_;
    ModelLayout layout_;
    std::unordered_map<std::string, std::pair<std::size_t, const Field*>> places_;
};

ModelSource open_store(InputFile file) {
    WeightStore store(std::move(file));
    const StoreTable& table = store.table();
    const ModelFolder kept(store.file(), table.files);
    const bool tied = std::ranges::none_of(
        table.units, [](const StoredUnit& unit) { return unit.name == "head"; });
    ModelSource source = table.source_kind == "gguf" ? open_gguf(open_kept_gguf_files(kept))
                                                     : open_folder(kept, tied);
    source.kind = "store";
    source.weights = std::make_unique<StoreModel>(std::move(store), std::move(source.weights));
    return source;
}

ModelSource open_file(const std::filesystem::path& path, const std::shared_ptr<ReadLog>& log) {
    const bool regular = std::filesystem::is_regular_file(path);
    if (regular && WeightStore::is_store(InputFile(path))) return open_store(InputFile(path));
    if (path.extension() != ".gguf" && (!regular || !GgufFile::is_gguf(InputFile(path)))) {
        throw UserError(fmt::format(
            "{}: expected a GGUF file, a weight store made by qshard quantize, or a folder with "
            "config.json and safetensors\nPickled files (.bin, .pt) are never read.",
            path.string()));
    }
    return open_gguf(open_gguf_files(path, log));
}

}  // namespace

ModelSource open_model_source(const std::filesystem::path& path,
                              const std::shared_ptr<ReadLog>& log) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) {
        throw UserError(
            fmt::format("there is no model at {}{}", path.string(), advice_on_missing(path)));
    }
    const bool folder = std::filesystem::is_directory(status);
    if (folder && std::filesystem::status(path / "config.json", error).type() ==
                      std::filesystem::file_type::not_found) {
        refuse_folder(path);
    }
    ModelSource source = folder ? open_folder(ModelFolder(path, log)) : open_file(path, log);
    source.path = path;
    return source;
}

std::unique_ptr<WeightReader> open_model(const std::filesystem::path& path) {
    return open_model_source(path).weights;
}

}  // namespace qshard
