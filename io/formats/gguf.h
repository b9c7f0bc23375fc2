#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/formats/gguf_dequant.h"
#include "io/formats/input_file.h"

/// Reader of GGUF files (versions 2 and 3, little-endian), as strict as ggml's and with limits for
/// hostile ones. A model may lie in several files, as llama-gguf-split cuts it.
namespace qshard {

/// Integers of every width and booleans of arrays are int64, floats are double.
using GgufValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<std::string>>;

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

struct GgufTensor {
    std::string name;
    std::vector<std::int64_t> extents;  ///< fastest first: {cols, rows}
    GgmlType type = GgmlType::kF32;
    std::size_t part = 0;      ///< file of the model that holds it
    std::uint64_t offset = 0;  ///< from the start of that file
    std::uint64_t bytes = 0;

    std::int64_t count() const;
};

class GgufFile {
  public:
    static constexpr std::int64_t kMaxParts = 512;
    /// Opens a further file of a model that is in several: file `number`, from 2, of `count`.
    using OpenPart = std::function<InputFile(std::int64_t number, std::int64_t count)>;

    /// Reads metadata and tensor table. UserError: strings above 16 MiB, arrays above 16 Mi items
    /// or longer than the file, above 65,536 keys or 1,000,000 tensors, duplicate names, above 4
    /// dimensions, rows that are no whole blocks, alignment no power of two up to 1 MiB, offsets
    /// that are not the running sum of padded sizes, data past the end; files of a split model that
    /// do not belong together, or more than kMaxParts.
    explicit GgufFile(InputFile file, const OpenPart& open_part = {});

    /// Whether it begins as GGUF files do.
    static bool is_gguf(const InputFile& file);

    /// Null or nothing if the key is absent; UserError if its value has another type.
    std::optional<std::int64_t> integer(std::string_view key) const;
    std::optional<double> number(std::string_view key) const;
    std::optional<bool> boolean(std::string_view key) const;
    const std::string* text(std::string_view key) const;
    const std::vector<std::string>* texts(std::string_view key) const;
    const std::vector<std::int64_t>* integers(std::string_view key) const;
    const std::vector<double>* numbers(std::string_view key) const;
    bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

    const GgufMetadata& metadata() const { return metadata_; }
    /// A value as the file has it: type number, then content. The key is there.
    std::vector<std::byte> raw_value(std::string_view key) const;
    const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }
    const GgufTensor* find(std::string_view name) const;
    /// Bytes [first, first + bytes) of a tensor's data. UserError if its file ends before;
    /// SystemError if reading fails.
    void read(const GgufTensor& tensor, std::uint64_t first, void* out, std::size_t bytes) const;

    /// Of the first file, for messages.
    const std::string& name() const { return parts_.front().file.name(); }
    /// Of all files.
    std::uint64_t bytes() const;
    /// Hexadecimal digest of sizes and headers of all files.
    std::string sha256() const;

  private:
    struct Range {
        std::uint64_t begin = 0, end = 0;
    };
    /// What a file says before its tensors' data.
    struct Header {
        GgufMetadata metadata;
        std::map<std::string, Range, std::less<>> value_ranges;
        std::vector<GgufTensor> tensors;
        std::uint64_t bytes = 0;  ///< including the padding before the data
    };
    struct Part {
        InputFile file;
        std::uint64_t header_bytes = 0;
    };

    static Header take_header(const InputFile& file);
    void add_part(InputFile file, Header header);
    void add_further_parts(const OpenPart& open_part);

    std::vector<Part> parts_;
    GgufMetadata metadata_;  // of the first file
    std::map<std::string, Range, std::less<>> value_ranges_;
    std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace qshard
