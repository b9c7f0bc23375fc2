#include "io/formats/gguf_files.h"

#include "base/error.h"

namespace qshard {
namespace {

constexpr const char* kKeptName = "model";  // in weight stores, whatever the files are called

std::string numbered(std::string_view name, std::int64_t number, std::int64_t count) {
    return fmt::format("{}-{:05}-of-{:05}.gguf", name, number, count);
}

/// File 1 has the name that stores had before they kept models in several.
std::string kept_name(std::int64_t number, std::int64_t count) {
    return number == 1 ? fmt::format("{}.gguf", kKeptName) : numbered(kKeptName, number, count);
}

std::filesystem::path sibling(const std::filesystem::path& first, std::int64_t number,
                              std::int64_t count) {
    const std::string name = first.filename().string(), end = numbered("", 1, count);
    if (!name.ends_with(end)) {
        throw UserError(fmt::format(
            "{}: the first of {} files of a model; the others are found by their names, and so "
            "this one's must end in {}",
            first.string(), count, end));
    }
    const std::filesystem::path path =
        first.parent_path() / numbered(name.substr(0, name.size() - end.size()), number, count);
    if (!std::filesystem::exists(path)) {
        throw UserError(fmt::format("{}: the model is in {} files, and {} is missing beside it",
                                    first.string(), count, path.filename().string()));
    }
    return path;
}

InputFile recorded(InputFile file, const std::shared_ptr<ReadLog>& log, std::string name) {
    if (log) file.record(log, std::move(name));
    return file;
}

}  // namespace

std::shared_ptr<const GgufFile> open_gguf_files(const std::filesystem::path& first,
                                                const std::shared_ptr<ReadLog>& log) {
    return std::make_shared<const GgufFile>(
        recorded(InputFile(first), log, kept_name(1, 1)),
        [&](std::int64_t number, std::int64_t count) {
            const std::filesystem::path path = sibling(first, number, count);
            return recorded(InputFile::inside(path.parent_path(), path.filename().string()), log,
                            kept_name(number, count));
        });
}

std::shared_ptr<const GgufFile> open_kept_gguf_files(const ModelFolder& kept) {
    return std::make_shared<const GgufFile>(kept.open(kept_name(1, 1)),
                                            [&](std::int64_t number, std::int64_t count) {
                                                return kept.open(kept_name(number, count));
                                            });
}

}  // namespace qshard
