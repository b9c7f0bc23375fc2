#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/formats/gguf_dequant.h"
#include "io/formats/input_file.h"

/// Reader of GGUF files (versions 2 and 3, little-endian), as strict as ggml's and with limits for
/// hostile ones.
namespace qshard {

/// Integers of every width and booleans of arrays are int64, floats are double.
using GgufValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
    std::string name;
    std::vector<std::int64_t> extents;  ///< fastest first: {cols, rows}
    GgmlType type = GgmlType::kF32;
    std::uint64_t offset = 0;  ///< from the start of the file
    std::uint64_t bytes = 0;

    std::int64_t count() const;
};

class GgufFile {
  public:
    /// Reads metadata and tensor table. UserError: strings above 16 MiB, arrays above 16 Mi items
    /// or longer than the file, above 65,536 keys or 1,000,000 tensors, duplicate names, above 4
    /// dimensions, rows that are no whole blocks, alignment no power of two up to 1 MiB, offsets
    /// that are not the running sum of padded sizes, data past the end.
    explicit GgufFile(InputFile file);

    /// Null or nothing if the key is absent; UserError if its value has another type.
    std::optional<std::int64_t> integer(std::string_view key) const;
    std::optional<double> number(std::string_view key) const;
    std::optional<bool> boolean(std::string_view key) const;
    const std::string* text(std::string_view key) const;
    const std::vector<std::string>* texts(std::string_view key) const;
    const std::vector<std::int64_t>* integers(std::string_view key) const;
    const std::vector<double>* numbers(std::string_view key) const;
    bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

    const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
    /// A value as the file has it: type number, then content. The key is there.
    std::vector<std::byte> raw_value(std::string_view key) const;
    const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }
    const GgufTensor* find(std::string_view name) const;
    const InputFile& file() const { return file_; }
    std::uint64_t header_bytes() const { return header_bytes_; }

  private:
    template <class T>
    const T* get(std::string_view key, std::string_view expected) const;

    InputFile file_;
    std::uint64_t header_bytes_ = 0;  // including the padding before the data
    struct Range {
        std::uint64_t begin = 0, end = 0;
    };
    std::map<std::string, GgufValue, std::less<>> metadata_;
    std::map<std::string, Range, std::less<>> value_ranges_;
    std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace qshard
