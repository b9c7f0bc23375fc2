#include "io/formats/model_folder.h"

#include <algorithm>

#include "base/error.h"

namespace qshard {

bool ModelFolder::has(std::string_view name) const {
    if (store_) return kept_.contains(std::string(name));
    return std::filesystem::is_regular_file(path_ / name);
}

bool ModelFolder::has_unfinished_download() const {
    std::error_code error;
    for (const char* folder : {".", ".cache/huggingface/download"}) {
        for (const auto& entry : std::filesystem::directory_iterator(path_ / folder, error)) {
            const auto ending = entry.path().extension();
            if (ending == ".incomplete" || ending == ".part" || ending == ".aria2") return true;
        }
    }
    return false;
}

InputFile ModelFolder::open(std::string_view name) const {
    if (store_) return kept(std::string(name));
    return recorded(InputFile::beneath(path_, name), name);
}

std::vector<std::string> ModelFolder::names_in(std::string_view inner) const {
    std::vector<std::string> names;
    const std::string prefix = std::string(inner) + "/";
    for (const auto& [name, file] : kept_) {
        if (name.starts_with(prefix)) names.push_back(name.substr(prefix.size()));
    }
    std::error_code error;
    if (!store_) {
        for (const auto& entry : std::filesystem::directory_iterator(path_ / inner, error)) {
            if (entry.is_regular_file(error)) names.push_back(entry.path().filename().string());
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

InputFile ModelFolder::open_in(std::string_view inner, std::string_view name) const {
    const std::string whole = fmt::format("{}/{}", inner, name);
    if (store_) return kept(whole);
    return recorded(InputFile::beneath(path_, name, inner), whole);
}

InputFile ModelFolder::recorded(InputFile file, std::string_view name) const {
    if (log_) file.record(log_, std::string(name));
    return file;
}

InputFile ModelFolder::kept(const std::string& name) const {
    const auto it = kept_.find(name);
    if (it == kept_.end())
        throw UserError(fmt::format("{} does not keep {}", path_.string(), name));
    return {store_, it->second, (path_ / name).string()};
}

}  // namespace qshard
