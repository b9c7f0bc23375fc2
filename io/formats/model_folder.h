#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/formats/input_file.h"

namespace qshard {

/// The files of a model: those of a directory, or what a weight store keeps of them.
class ModelFolder {
  public:
    /// With a log, everything read of its files is noted there.
    explicit ModelFolder(std::filesystem::path path, std::shared_ptr<ReadLog> log = nullptr)
        : path_(std::move(path)), log_(std::move(log)) {}
    ModelFolder(std::shared_ptr<const InputFile> store, std::map<std::string, PartialFile> kept)
        : path_(store->name()), store_(std::move(store)), kept_(std::move(kept)) {}

    bool has(std::string_view name) const;
    /// Whether the Hub's programs began a download into the directory and did not end it.
    bool has_unfinished_download() const;
    /// A file whose name may come from another file: InputFile::beneath().
    InputFile open(std::string_view name) const;
    /// The files of a folder in it, in order; none if there is no such folder.
    std::vector<std::string> names_in(std::string_view inner) const;
    InputFile open_in(std::string_view inner, std::string_view name) const;
    /// For messages.
    const std::filesystem::path& path() const { return path_; }

  private:
    InputFile recorded(InputFile file, std::string_view name) const;
    InputFile kept(const std::string& name) const;

    std::filesystem::path path_;
    std::shared_ptr<ReadLog> log_;
    std::shared_ptr<const InputFile> store_;  ///< null: a directory
    std::map<std::string, PartialFile> kept_;
};

}  // namespace qshard
