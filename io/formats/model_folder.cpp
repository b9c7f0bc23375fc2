#include "io/formats/model_folder.h"

#include "base/error.h"

namespace qshard {

bool ModelFolder::has(std::string_view name) const {
    if (store_) return kept_.contains(std::string(name));
    return std::filesystem::is_regular_file(path_ / name);
}

InputFile ModelFolder::open(std::string_view name) const {
    if (store_) return kept(std::string(name));
    return recorded(InputFile::beneath(path_, name), name);
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
