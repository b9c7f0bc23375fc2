#include "io/formats/hub_cache.h"

#include <cstdlib>
#include <fstream>
#include <string>
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
    if (const auto home = variable("HF_HOME")) return *home / "hub";
    if (const auto cache = variable("XDG_CACHE_HOME")) return *cache / "huggingface/hub";
    if (const auto home = variable("HOME")) return *home / ".cache/huggingface/hub";
    return std::nullopt;
}

}  // namespace

std::optional<fs::path> find_in_hub_cache(const fs::path& model) {
    const std::optional<fs::path> cache = hub_cache();
    if (!cache) return std::nullopt;
    const fs::path repository = *cache / ("models--" + model.parent_path().filename().string() +
                                          "--" + model.filename().string());
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
