#pragma once

#include <array>
#include <boost/json/array.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "io/formats/input_file.h"
#include "spec/layout.h"

/// The weight store (.qs): a model's units as a run keeps them in memory, quantized and laid out,
/// so that a start reads a quarter of the bytes and quantizes nothing; and with them what opening
/// the model reads of its files (configuration, tokenizer, headers), so that nothing else is
/// needed.
///
///     0        "QSHARDQS", u32 version
///     4096     the units in order, each at a multiple of 4096
///              what is kept of the source's files
///              the table: JSON
///     the end  u64 offset and u64 bytes of the table, its SHA-256 (32 bytes), "QSHARDQS"
namespace qshard {

struct StoredUnit {
    std::string name;
    std::uint64_t offset = 0, bytes = 0;
    PositionSum sum;  ///< of its bytes, positions counted from the unit's begin
};

/// What the table says.
struct StoreTable {
    std::string source_kind;  ///< "gguf" or "safetensors"
    std::string source_name;  ///< as `qshard quantize` was given it
    std::string source_sha256;
    std::string made_by, created;
    Quantization quantization = Quantization::kNf4;
    bool double_quant = true;
    DType plain_dtype = DType::kBF16;
    std::string layout_sha256;  ///< layout_digest() of the layout its units have
    std::vector<StoredUnit> units;
    std::map<std::string, PartialFile> files;
};

/// SHA-256 over the places of all parts of all fields.
std::string layout_digest(const ModelLayout& layout);

constexpr std::size_t kStorePage = 4096;
constexpr std::uint32_t kStoreVersion = 1;
constexpr std::array<char, 8> kStoreMagic = {'Q', 'S', 'H', 'A', 'R', 'D', 'Q', 'S'};

struct StoreHead {
    std::array<char, 8> magic = kStoreMagic;
    std::uint32_t version = kStoreVersion;
};
struct StoreTail {
    std::uint64_t table_offset = 0, table_bytes = 0;
    std::array<std::uint8_t, 32> table_sha256{};
    std::array<char, 8> magic = kStoreMagic;
};
static_assert(sizeof(StoreHead) == 12 && sizeof(StoreTail) == 56);

/// The units as in that text: name, offset, bytes, sum.
boost::json::array units_json(const StoreTable& table);
std::string store_table_text(const StoreTable& table);
/// UserError naming `origin` for anything that is not such a table; pieces and units lie inside
/// `file_bytes`.
StoreTable parse_store_table(std::string_view text, std::uint64_t file_bytes,
                             const std::string& origin);

/// A store opened for reading.
class WeightStore {
  public:
    /// Reads and checks header and table; units are checked by who reads them. UserError if it is
    /// no store, of another version, truncated or damaged.
    explicit WeightStore(InputFile file);

    const StoreTable& table() const { return table_; }
    const std::shared_ptr<const InputFile>& file() const { return file_; }
    /// Bytes [first, first + out.size()) of a unit.
    void read(std::size_t unit, std::uint64_t first, std::span<std::byte> out) const;
    /// UserError unless the unit's bytes add up to what was stored.
    void check_sum(std::size_t unit, const PositionSum& found) const;
    /// Reads every unit; what is wrong with each damaged one.
    std::vector<std::string> damages() const;

    static bool is_store(const InputFile& file);

  private:
    std::shared_ptr<const InputFile> file_;
    StoreTable table_;
};

}  // namespace qshard
