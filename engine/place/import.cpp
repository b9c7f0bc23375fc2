#include "place/import.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/nf4.h"

namespace qshard {
namespace {

constexpr std::int64_t kTaskWeights =
    1 << 16;  ///< weights of one task: its buffers stay in the cache
constexpr std::size_t kCodesPerBlock = kNf4Block / 2;  ///< bytes of codes of one block

/// Part [begin, end) of a section of `bytes` at `section`, in bytes relative to the section, that
/// lies in a shard.
struct Part {
    std::size_t begin = 0, end = 0;
    bool empty() const { return begin >= end; }
};

Part intersect(std::size_t section, std::size_t bytes, std::size_t shard_begin,
               std::size_t shard_end) {
    const std::size_t begin = std::max(section, shard_begin),
                      end = std::min(section + bytes, shard_end);
    if (begin >= end) return {};
    return {begin - section, end - section};
}

/// Imports one unit on one rank.
class UnitImport {
  public:
    UnitImport(const WeightReader& reader, const UnitLayout& unit, const LayoutOptions& options,
               Communicator& group, int threads, std::span<std::byte> shard)
        : reader_(reader),
          unit_(unit),
          options_(options),
          group_(group),
          threads_(threads),
          shard_(shard),
          begin_(shard.size() * static_cast<std::size_t>(group.rank())),
          end_(begin_ + shard.size()) {}

    /// Weights this rank reads.
    std::int64_t run() {
        std::memset(shard_.data(), 0, shard_.size());
        // One absmax per 32 bytes of the unit's code space, by position, so that every rank's part
        // is one range of equal length; code sections are 64-byte aligned, so a shard boundary
        // never cuts a block.
        absmax_.assign(shard_.size() / kCodesPerBlock * static_cast<std::size_t>(group_.count()),
                       0.0f);
        std::int64_t weights = 0;
        for (const Field& field : unit_.fields) {
            weights += field.storage == Storage::kNf4 ? quantize(field) : copy_plain(field);
        }
        if (unit_.code_bytes > 0) store_absmax();
        return weights;
    }

  private:
    bool rounds(const WeightSpec& weight) const {
        const DType source = reader_.source_dtype(weight);
        return options_.plain_dtype != DType::kF32 || source == DType::kBF16;
    }

    std::int64_t copy_plain(const Field& field) {
        const Part part = intersect(field.data, field.data_bytes, begin_, end_);
        if (part.empty()) return 0;
        const std::size_t element = bytes_of(field.dtype);
        const auto first = static_cast<std::int64_t>(part.begin / element);
        const auto count = static_cast<std::int64_t>((part.end - part.begin) / element);
        std::byte* out = shard_.data() + (field.data + part.begin - begin_);
        const bool round = rounds(field.weight) && field.weight.rows > 1;
        parallel_for(threads_, (count + kTaskWeights - 1) / kTaskWeights, [&](std::int64_t task) {
            const std::int64_t at = task * kTaskWeights,
                               length = std::min(kTaskWeights, count - at);
            std::vector<float> values(static_cast<std::size_t>(length));
            reader_.read(field.weight, first + at, values);
            for (std::int64_t i = 0; i < length; ++i) {
                const float value = values[static_cast<std::size_t>(i)];
                if (field.dtype == DType::kBF16) {
                    reinterpret_cast<bf16*>(out)[at + i] = to_bf16(value);
                } else {
                    reinterpret_cast<float*>(out)[at + i] =
                        round ? to_float(to_bf16(value)) : value;
                }
            }
        });
        return count;
    }

    std::int64_t quantize(const Field& field) {
        const Part part = intersect(field.data, field.data_bytes, begin_, end_);
        if (part.empty()) return 0;
        const auto first_block = static_cast<std::int64_t>(part.begin / kCodesPerBlock);
        const std::int64_t first = first_block * kNf4Block;
        const std::int64_t last =
            std::min(field.weight.count(), static_cast<std::int64_t>(part.end) * 2);
        const bool round = rounds(field.weight);
        std::byte* out = shard_.data() + (field.data + part.begin - begin_);
        float* absmax =
            absmax_.data() + (field.data / kCodesPerBlock + static_cast<std::size_t>(first_block));
        parallel_for(threads_, (last - first + kTaskWeights - 1) / kTaskWeights,
                     [&](std::int64_t task) {
                         const std::int64_t at = task * kTaskWeights,
                                            length = std::min(kTaskWeights, last - first - at);
                         std::vector<float> values(static_cast<std::size_t>(length));
                         reader_.read(field.weight, first + at, values);
                         if (round) {
                             for (float& value : values) value = to_float(to_bf16(value));
                         }
                         nf4_quantize(values, reinterpret_cast<std::uint8_t*>(out) + at / 2,
                                      absmax + at / kNf4Block);
                     });
        return last - first;
    }

    /// Exchanges the absmax values, then writes the parts of the absmax sections that this rank
    /// owns.
    void store_absmax() {
        const std::size_t piece = shard_.size() / kCodesPerBlock;
        const std::span<float> all(absmax_);
        group_
            .all_gather(
                std::as_bytes(all.subspan(piece * static_cast<std::size_t>(group_.rank()), piece)),
                std::as_writable_bytes(all))
            .wait();
        for (const Field& field : unit_.fields) {
            if (field.storage != Storage::kNf4) continue;
            const auto blocks = static_cast<std::size_t>(field.blocks);
            const std::span<const float> absmax = all.subspan(field.data / kCodesPerBlock, blocks);
            if (!field.double_quant) {
                store(field.absmax, std::as_bytes(absmax));
                continue;
            }
            std::vector<std::uint8_t> codes(blocks);
            std::vector<float> absmax2((blocks + kNestedBlock - 1) / kNestedBlock);
            float offset = 0;
            double_quantize(absmax, codes.data(), absmax2.data(), &offset);
            store(field.absmax, std::as_bytes(std::span(codes)));
            store(field.absmax2, std::as_bytes(std::span(absmax2)));
            store(field.offset, std::as_bytes(std::span(&offset, 1)));
        }
    }

    void store(std::size_t section, std::span<const std::byte> bytes) {
        const Part part = intersect(section, bytes.size(), begin_, end_);
        if (part.empty()) return;
        std::memcpy(shard_.data() + (section + part.begin - begin_), bytes.data() + part.begin,
                    part.end - part.begin);
    }

    const WeightReader& reader_;
    const UnitLayout& unit_;
    const LayoutOptions& options_;
    Communicator& group_;
    int threads_;
    std::span<std::byte> shard_;
    std::size_t begin_, end_;
    std::vector<float> absmax_;
};

}  // namespace

std::int64_t import_unit(const WeightReader& reader, const UnitLayout& unit,
                         const LayoutOptions& options, Communicator& group, int threads,
                         std::span<std::byte> shard) {
    check(shard.size() == unit.shard_bytes(group.count()), "a shard has the layout's bytes");
    return UnitImport(reader, unit, options, group, threads, shard).run();
}

}  // namespace qshard
