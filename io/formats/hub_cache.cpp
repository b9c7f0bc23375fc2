#include "io/formats/hub_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace qshard {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> variable(const char* name) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
}

std::optional<fs::path> hub_cache() {
    if (const auto hub = variable("HF_HUB_CACHE")) return hub;
    if (const auto hub = variable("HUGGINGFACE_HUB_CACHE")) return hub;
    if (const auto home = variable("HF_HOME")) return *home / "hub";
    if (const auto cache = variable("XDG_CACHE_HOME")) return *cache / "huggingface/hub";
    if (const auto home = variable("HOME")) return *home / ".cache/huggingface/hub";
    return std::nullopt;
}

/// A part of an id: OWNER or NAME.
bool is_id_part(const std::string& name) {
    static constexpr std::array<std::string_view, 6> kFiles = {".gguf", ".qs",          ".h5",
                                                               ".json", ".safetensors", ".yaml"};
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
    };
    return !name.empty() && name.size() <= 96 && name.front() != '.' && name.front() != '-' &&
           std::ranges::all_of(name, allowed) &&
           std::ranges::none_of(kFiles, [&](std::string_view end) { return name.ends_with(end); });
}

/// The id that a path that is not there may be meant for, or empty. Paths of run files are made
/// absolute before, so the last names count.
std::string id_of(const fs::path& path) {
    const std::string name = path.filename().string(),
                      owner = path.parent_path().filename().string();
    std::error_code error;
    if (!is_id_part(name)) return "";
    const bool folder = path.parent_path().empty() || fs::is_directory(path.parent_path(), error);
    if (folder) return name;
    const bool deeper = path.is_relative() && std::distance(path.begin(), path.end()) > 2;
    return is_id_part(owner) && !deeper ? owner + "/" + name : "";
}

/// The snapshot of a repository of the cache, if it was downloaded here.
std::optional<fs::path> find_snapshot(const std::string& repository_name) {
    const std::optional<fs::path> cache = hub_cache();
    if (!cache) return std::nullopt;
    const fs::path repository = *cache / repository_name;
    const fs::path snapshots = repository / "snapshots";
    std::string revision;
    std::ifstream(repository / "refs/main") >> revision;
    std::error_code error;
    if (!revision.empty() && fs::is_directory(snapshots / revision, error))
        return snapshots / revision;
    std::vector<fs::path> all;
    for (const auto& entry : fs::directory_iterator(snapshots, error)) all.push_back(entry.path());
    if (all.size() != 1) return std::nullopt;
    return all.front();
}

}  // namespace

std::optional<fs::path> find_in_hub_cache(const fs::path& model) {
    return find_snapshot("models--" + model.parent_path().filename().string() + "--" +
                         model.filename().string());
}

std::string advice_on_missing(const fs::path& path) {
    const std::string id = id_of(path), name = path.filename().string();
    auto cached = find_in_hub_cache(path);
    if (!cached && !name.empty()) cached = find_snapshot("models--" + name);
    if (cached) {
        return fmt::format("\nHugging Face's cache has one of that name; give {}",
                           cached->string());
    }
    if (id.empty()) return "";
    return fmt::format(
        "\nIf {0} is an id of the Hugging Face Hub: nothing is downloaded by this program. Run\n"
        "        hf download {0} --local-dir {1}\n(huggingface-cli download before version 1.0) "
        "and give that folder.",
        id, name);
}

bool is_within(const fs::path& file, const fs::path& folder) {
    const auto [rest, end] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
    return rest == folder.end() && end != file.end();
}

bool is_blob_of_snapshot(const fs::path& file, const fs::path& folder) {
    for (fs::path at = folder; at.has_relative_path(); at = at.parent_path()) {
        const fs::path repository = at.parent_path().parent_path();
        if (at.parent_path().filename() == "snapshots" &&
            repository.filename().string().starts_with("models--")) {
            return file.parent_path() == repository / "blobs";
        }
    }
    return false;
}

std::string name_of_folder(const fs::path& folder) {
    std::error_code error;
    fs::path path = fs::weakly_canonical(folder, error);
    if (error) path = folder;
    if (path.parent_path().filename() != "snapshots") return path.filename().string();
    const std::string repository = path.parent_path().parent_path().filename().string();
    const std::size_t owner = repository.rfind("--");
    return owner == std::string::npos ? repository : repository.substr(owner + 2);
}

}  // namespace qshard
