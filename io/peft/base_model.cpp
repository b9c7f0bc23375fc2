#include "io/peft/base_model.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/error.h"
#include "io/formats/hub_cache.h"
#include "io/formats/input_file.h"
#include "io/formats/weight_store.h"
#include "spec/json.h"

namespace qshard {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 22;

/// OWNER/NAME of ".../models--OWNER--NAME/snapshots/REVISION...", or "".
std::string id_of_cached(const fs::path& path) {
    constexpr std::string_view kPrefix = "models--", kBetween = "--";
    for (auto at = path.begin(); at != path.end(); ++at) {
        const std::string name = at->string();
        const auto next = std::next(at);
        if (!name.starts_with(kPrefix) || next == path.end() || *next != "snapshots") continue;
        const std::string repository = name.substr(kPrefix.size());
        const std::size_t between = repository.find(kBetween);
        if (between == std::string::npos) return repository;
        return repository.substr(0, between) + "/" + repository.substr(between + kBetween.size());
    }
    return "";
}

bool begins_with(const fs::path& file, std::string_view magic) {
    std::array<char, 16> begin{};
    std::ifstream(file, std::ios::binary).read(begin.data(), begin.size());
    return std::string_view(begin.data(), begin.size()).starts_with(magic);
}

bool is_gguf(const fs::path& path) {
    std::string ending = path.extension().string();
    std::ranges::transform(ending, ending.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    std::error_code error;
    return ending == ".gguf" || (fs::is_regular_file(path, error) && begins_with(path, "GGUF"));
}

bool is_store(const fs::path& path) {
    std::error_code error;
    return fs::is_regular_file(path, error) &&
           begins_with(path, {kStoreMagic.data(), kStoreMagic.size()});
}

std::string quant_method_of(const fs::path& folder) {
    const fs::path file = folder / "config.json";
    const boost::json::value config =
        parse_strict_json(InputFile(file).text(kMaxConfigBytes), file.string());
    const boost::json::value* quantized = config.as_object().if_contains("quantization_config");
    if (quantized == nullptr || !quantized->is_object()) return "";
    const boost::json::value* method = quantized->get_object().if_contains("quant_method");
    const boost::json::string* text = method == nullptr ? nullptr : method->if_string();
    return text == nullptr ? "bitsandbytes" : std::string(*text);
}

}  // namespace

std::string BaseModel::folder() const {
    const fs::path parent = fs::path(path).parent_path();
    return parent.empty() ? "." : parent.string();
}

std::string BaseModel::file_name() const {
    const fs::path name = fs::path(path).filename();
    return name.empty() ? fs::path(path).parent_path().filename().string() : name.string();
}

bool is_hub_id(const std::string& name) {
    const auto allowed = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
    };
    const std::size_t slash = name.find('/');
    if (slash == std::string::npos || slash == 0 || slash + 1 == name.size()) return false;
    if (name.front() == '.' || name[slash + 1] == '.') return false;
    return std::ranges::all_of(name.substr(0, slash), allowed) &&
           std::ranges::all_of(name.substr(slash + 1), allowed);
}

BaseModel describe_base_model(const std::string& base) {
    BaseModel model;
    model.path = base;
    if (base.empty()) return model;
    const fs::path path(base);
    std::error_code error;
    const bool here = fs::exists(path, error);
    model.hub_id = id_of_cached(path);
    if (is_gguf(path)) {
        model.kind = BaseModel::Kind::kGguf;
        return model;
    }
    if (model.hub_id.empty() && !here) {
        if (is_hub_id(base)) model.hub_id = base;
        const std::string last = path.parent_path().filename().string() + "/" + model.file_name();
        if (find_in_hub_cache(path) && is_hub_id(last)) model.hub_id = last;
    }
    model.kind = BaseModel::Kind::kFolder;
    try {
        if (is_store(path)) {
            model.kind = BaseModel::Kind::kStore;
            model.made_from = WeightStore{InputFile(path)}.table().source_name;
        } else if (here) {
            model.quantized = quant_method_of(path);
        }
    } catch (const std::exception&) {  // the base is not what this is about
        model.quantized.clear();
    }
    return model;
}

}  // namespace qshard
