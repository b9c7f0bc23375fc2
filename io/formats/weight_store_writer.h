#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint/result_file.h"
#include "io/formats/weight_store.h"

namespace qshard {

/// Writes a store under a temporary name; it appears, whole and durable, with finish().
class WeightStoreWriter {
  public:
    /// Gives bytes of a file of the source.
    using ReadSource =
        std::function<void(const std::string& file, std::uint64_t at, std::span<std::byte> out)>;

    /// SystemError if it cannot be created or the file system has no room for it.
    WeightStoreWriter(const std::filesystem::path& target, const ModelLayout& layout);
    /// The units of the layout, in order, each with exactly its bytes.
    void add_unit(std::span<const std::byte> bytes);
    /// `table` says everything but layout, units and places of files; its `files` are what to keep.
    void finish(StoreTable table, const ReadSource& read);

  private:
    void append(std::span<const std::byte> bytes);
    void pad();

    const ModelLayout& layout_;
    ResultFile file_;
    std::uint64_t end_ = 0;
    std::vector<StoredUnit> units_;
};

}  // namespace qshard
