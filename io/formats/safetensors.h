#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/formats/input_file.h"

/// Reader of safetensors files, as strict as the reference implementation and with limits for
/// hostile ones.
namespace qshard {

enum class SafetensorsType : std::uint8_t {
    kBool,
    kF4,
    kF6E2M3,
    kF6E3M2,
    kU8,
    kI8,
    kF8E5M2,
    kF8E4M3,
    kF8E8M0,
    kF8E4M3Fnuz,
    kF8E5M2Fnuz,
    kI16,
    kU16,
    kF16,
    kBF16,
    kI32,
    kU32,
    kF32,
    kC64,
    kF64,
    kI64,
    kU64
};

std::string_view name_of(SafetensorsType type);
std::uint64_t bits_of(SafetensorsType type);  ///< of one element

struct SafetensorsTensor {
    SafetensorsType type = SafetensorsType::kF32;
    std::vector<std::int64_t> shape;
    std::uint64_t offset = 0;  ///< from the start of the file; may be unaligned
    std::uint64_t bytes = 0;

    std::int64_t count() const;
};

class SafetensorsFile {
  public:
    /// Reads and checks the header. UserError: header above 32 MiB or outside the file, above
    /// 200,000 tensors, above 8 dimensions, names above 512 bytes, unknown dtypes, sizes that
    /// contradict shapes, holes, overlaps, trailing bytes.
    explicit SafetensorsFile(InputFile file);

    const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const {
        return tensors_;
    }
    const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }
    /// Null if absent.
    const SafetensorsTensor* find(std::string_view name) const;
    const InputFile& file() const { return file_; }
    /// Bytes of the file that are not tensor data (length field and header).
    std::uint64_t header_bytes() const { return header_bytes_; }

  private:
    InputFile file_;
    std::uint64_t header_bytes_ = 0;
    std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
    std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace qshard
