#include "place/import.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "comm/agree.h"
#include "tensor/int8.h"
#include "tensor/rounding.h"

namespace qshard {
namespace {

constexpr std::int64_t kTaskWeights = 1 << 15;  ///< of one task: its buffers stay in the cache
constexpr std::size_t kTaskNested = 64;         ///< blocks of absmax of one task
constexpr std::int64_t kTaskBytes = 4 << 20;    ///< of a read of what is taken as it is
constexpr std::size_t kBlockBytes = kFourBitBlock / 2;  ///< of 4-bit codes of one block
constexpr const char* kReading = "reading the base";

/// Part [begin, end) of a section of `bytes` at `section`, in bytes relative to the section, that
/// lies in a shard.
struct Range {
    std::size_t begin = 0, end = 0;
    bool empty() const { return begin >= end; }
};

Range intersect(std::size_t section, std::size_t bytes, std::size_t shard_begin,
                std::size_t shard_end) {
    const std::size_t begin = std::max(section, shard_begin),
                      end = std::min(section + bytes, shard_end);
    if (begin >= end) return {};
    return {begin - section, end - section};
}

/// Room for a task's values, not initialised: clearing it would take as long as filling it.
template <class T>
class Room {
  public:
    explicit Room(std::int64_t count)
        : data_(std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(count))),
          count_(static_cast<std::size_t>(count)) {}
    std::span<T> all() const { return {data_.get(), count_}; }

  private:
    std::unique_ptr<T[]> data_;
    std::size_t count_;
};

/// UserError naming the first of a weight's elements [first, ...) that is NaN or infinite.
template <class T>
void require_finite(const WeightSpec& weight, std::int64_t first, std::span<const T> values) {
    if (all_finite(values)) return;
    const auto bad =
        std::find_if(values.begin(), values.end(), [](T x) { return !std::isfinite(to_float(x)); });
    const std::int64_t at = first + (bad - values.begin());
    throw UserError(fmt::format(
        "the base's weight \"{}\" has the value {} in row {}, column {}; expected finite "
        "numbers\nThe file is damaged, or its values overflowed when it was made.",
        weight.name, to_float(*bad), at / weight.cols, at % weight.cols));
}

/// Imports one unit on one rank. What is to be done for the fields is cut into tasks of about the
/// same length first, so that threads start once a unit and not once a matrix.
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
        std::int64_t weights = 0;
        agree(group_, kReading, [&] {
            clear_padding();
            for (const Field& field : unit_.fields) {
                if (field.storage == Storage::kPlain) {
                    weights += copy_plain(field);
                } else if (field.taken) {
                    weights += take(field);
                } else if (field.storage == Storage::kInt8) {
                    weights += quantize_rows(field);
                } else {
                    weights += quantize_blocks(field);
                }
            }
            run_tasks();
        });
        if (!block_absmax_.empty()) store_block_absmax();
        if (!row_absmax_.empty()) store_row_absmax();
        return weights;
    }

  private:
    /// Adds tasks that run body(at, length) over [0, count), `step` at a time.
    template <class Body>
    void add_tasks(std::int64_t count, std::int64_t step, const Body& body) {
        for (std::int64_t at = 0; at < count; at += step)
            tasks_.push_back([=] { body(at, std::min(step, count - at)); });
    }

    void run_tasks() {
        parallel_for(threads_, std::ssize(tasks_),
                     [&](std::int64_t task) { tasks_[static_cast<std::size_t>(task)](); });
        tasks_.clear();
    }

    /// Sets to zero the bytes of the shard that are of no section.
    void clear_padding() {
        std::vector<FieldPart> sections = {{StoredPart::kData, begin_, 0},
                                           {StoredPart::kData, end_, 0}};
        for (const Field& field : unit_.fields) {
            for (const FieldPart& part : parts_of(field)) sections.push_back(part);
        }
        std::sort(sections.begin(), sections.end(),
                  [](const FieldPart& a, const FieldPart& b) { return a.begin < b.begin; });
        std::size_t covered = 0;
        for (const FieldPart& section : sections) {
            const Range gap = intersect(0, section.begin, std::max(covered, begin_), end_);
            if (!gap.empty())
                std::memset(shard_.data() + (gap.begin - begin_), 0, gap.end - gap.begin);
            covered = std::max(covered, section.begin + section.bytes);
        }
    }

    bool rounds(const WeightSpec& weight) const {
        return rounds_on_import(reader_, weight, options_.plain_dtype);
    }

    std::int64_t copy_plain(const Field& field) {
        const Range range = intersect(field.data, field.data_bytes, begin_, end_);
        if (range.empty()) return 0;
        const std::size_t element = bytes_of(field.dtype);
        const auto first = static_cast<std::int64_t>(range.begin / element);
        const auto count = static_cast<std::int64_t>((range.end - range.begin) / element);
        std::byte* out = shard_.data() + (field.data + range.begin - begin_);
        const bool round = rounds(field.weight) && field.weight.rows > 1;
        add_tasks(count, kTaskWeights, [=, this, &field](std::int64_t at, std::int64_t length) {
            const auto values = static_cast<std::size_t>(length);
            if (field.dtype == DType::kBF16) {
                const std::span<bf16> to(reinterpret_cast<bf16*>(out) + at, values);
                reader_.read_bf16(field.weight, first + at, to);
                require_finite<bf16>(field.weight, first + at, to);
            } else {
                read_rounded(field.weight, first + at, round,
                             {reinterpret_cast<float*>(out) + at, values});
            }
        });
        return count;
    }

    /// The bytes the source has. Weights are those whose codes this rank owns.
    std::int64_t take(const Field& field) {
        for (const FieldPart& part : parts_of(field)) {
            const Range range = intersect(part.begin, part.bytes, begin_, end_);
            if (range.empty()) continue;
            std::byte* out = shard_.data() + (part.begin + range.begin - begin_);
            add_tasks(static_cast<std::int64_t>(range.end - range.begin), kTaskBytes,
                      [=, this, &field](std::int64_t at, std::int64_t bytes) {
                          reader_.read_part(field.weight, part.part,
                                            range.begin + static_cast<std::size_t>(at),
                                            {out + at, static_cast<std::size_t>(bytes)});
                      });
        }
        const Range codes = intersect(field.data, field.data_bytes, begin_, end_);
        return codes.empty() ? 0
                             : static_cast<std::int64_t>(codes.end - codes.begin) *
                                   (is_four_bit(field.storage) ? 2 : 1);
    }

    std::int64_t quantize_blocks(const Field& field) {
        // One absmax per 32 bytes of the unit's code space, by position, so that every rank's part
        // is one range of equal length; code sections are 64-byte aligned, so a shard boundary
        // never cuts a block.
        block_absmax_.resize(shard_.size() / kBlockBytes *
                             static_cast<std::size_t>(group_.count()));
        const Range range = intersect(field.data, field.data_bytes, begin_, end_);
        if (range.empty()) return 0;
        const auto first_block = static_cast<std::int64_t>(range.begin / kBlockBytes);
        const std::int64_t first = first_block * kFourBitBlock;
        const std::int64_t last =
            std::min(field.weight.count(), static_cast<std::int64_t>(range.end) * 2);
        auto* codes =
            reinterpret_cast<std::uint8_t*>(shard_.data() + (field.data + range.begin - begin_));
        float* absmax = block_absmax_.data() +
                        (field.data / kBlockBytes + static_cast<std::size_t>(first_block));
        add_tasks(last - first, kTaskWeights,
                  [=, this, &field](std::int64_t at, std::int64_t length) {
                      quantize_elements(reader_, field.weight, options_.plain_dtype,
                                        four_bit_code(field.storage), first + at, length,
                                        codes + at / 2, absmax + at / kFourBitBlock);
                  });
        return last - first;
    }

    /// A row cut by a shard boundary is quantized whole by both its ranks.
    std::int64_t quantize_rows(const Field& field) {
        const std::size_t first_row_of_field = row_absmax_.size();
        row_absmax_.resize(first_row_of_field + static_cast<std::size_t>(field.blocks));
        const Range range = intersect(field.data, field.data_bytes, begin_, end_);
        if (range.empty()) return 0;
        const std::int64_t cols = field.weight.cols;
        const auto begin = static_cast<std::int64_t>(range.begin),
                   end = static_cast<std::int64_t>(range.end);
        const std::int64_t first_row = begin / cols, rows = (end - 1) / cols + 1 - first_row;
        const bool round = rounds(field.weight);
        auto* out =
            reinterpret_cast<std::int8_t*>(shard_.data() + (field.data + range.begin - begin_));
        add_tasks(rows, std::max<std::int64_t>(1, kTaskWeights / cols),
                  [=, this, &field](std::int64_t at, std::int64_t length) {
                      const Room<float> values(cols);
                      const Room<std::int8_t> codes(cols);
                      for (std::int64_t row = first_row + at; row < first_row + at + length;
                           ++row) {
                          read_rounded(field.weight, row * cols, round, values.all());
                          quantize_int8_row(
                              values.all(), codes.all().data(),
                              &row_absmax_[first_row_of_field + static_cast<std::size_t>(row)]);
                          const std::int64_t from = std::max(begin, row * cols),
                                             to = std::min(end, (row + 1) * cols);
                          std::copy_n(codes.all().begin() + (from - row * cols), to - from,
                                      out + (from - begin));
                      }
                  });
        return end - begin;
    }

    void read_rounded(const WeightSpec& weight, std::int64_t first, bool round,
                      std::span<float> values) const {
        reader_.read(weight, first, values);
        require_finite<float>(weight, first, values);
        if (round) round_to_bf16(values);
    }

    /// Exchanges the absmax values of 4-bit blocks, then writes the parts of the absmax sections
    /// that this rank owns.
    void store_block_absmax() {
        const std::size_t piece = shard_.size() / kBlockBytes;
        const std::span<float> all(block_absmax_);
        group_
            .all_gather(
                std::as_bytes(all.subspan(piece * static_cast<std::size_t>(group_.rank()), piece)),
                std::as_writable_bytes(all))
            .wait();
        std::vector<float> means(unit_.fields.size());
        const auto each_of = [&](auto&& visit) {
            for (std::size_t i = 0; i < means.size(); ++i) {
                const Field& field = unit_.fields[i];
                if (!is_four_bit(field.storage) || field.taken) continue;
                visit(field,
                      all.subspan(field.data / kBlockBytes, static_cast<std::size_t>(field.blocks)),
                      means[i]);
            }
        };
        each_of([&](const Field& field, std::span<const float> absmax, float& mean) {
            if (field.double_quant)
                tasks_.push_back([absmax, &mean] { mean = mean_absmax(absmax); });
        });
        run_tasks();
        each_of([&](const Field& field, std::span<const float> absmax, float& mean) {
            if (!field.double_quant) {
                store(field.absmax, std::as_bytes(absmax));
                return;
            }
            store_nested(field, absmax, mean);
            store(field.offset, std::as_bytes(std::span(&mean, 1)));
        });
        run_tasks();
    }

    /// Adds tasks that quantize the blocks of absmax that this rank owns a part of.
    void store_nested(const Field& field, std::span<const float> absmax, float mean) {
        constexpr auto kBlock = static_cast<std::size_t>(kNestedBlock);
        const std::size_t blocks = (absmax.size() + kBlock - 1) / kBlock;
        const Range a = intersect(field.absmax, absmax.size(), begin_, end_);
        const Range b = intersect(field.absmax2, blocks * sizeof(float), begin_, end_);
        const std::size_t first = std::min(a.empty() ? blocks : a.begin / kBlock,
                                           b.empty() ? blocks : b.begin / sizeof(float));
        const std::size_t last = std::max(a.empty() ? 0 : (a.end + kBlock - 1) / kBlock,
                                          b.empty() ? 0 : b.end / sizeof(float));
        for (std::size_t block = first; block < last; block += kTaskNested) {
            const std::size_t at = block * kBlock,
                              end = std::min(absmax.size(),
                                             std::min(last, block + kTaskNested) * kBlock);
            tasks_.push_back([=, this, &field] {
                std::array<std::uint8_t, kTaskNested * kBlock> codes;
                std::array<float, kTaskNested> absmax2;
                double_quantize(absmax.subspan(at, end - at), mean, codes.data(), absmax2.data());
                const std::size_t done = (end - at + kBlock - 1) / kBlock;
                store(field.absmax + at, std::as_bytes(std::span(codes).first(end - at)));
                store(field.absmax2 + block * sizeof(float),
                      std::as_bytes(std::span(absmax2).first(done)));
            });
        }
    }

    /// The same for int8 rows. Each rank knows the rows it has a part of, the others are zero.
    void store_row_absmax() {
        const std::size_t rows = row_absmax_.size();
        std::vector<float> all(rows * static_cast<std::size_t>(group_.count()));
        group_
            .all_gather(std::as_bytes(std::span(row_absmax_)),
                        std::as_writable_bytes(std::span(all)))
            .wait();
        for (std::size_t i = 0; i < all.size(); ++i)
            row_absmax_[i % rows] = std::max(row_absmax_[i % rows], all[i]);
        std::span<const float> next(row_absmax_);
        for (const Field& field : unit_.fields) {
            if (field.storage != Storage::kInt8 || field.taken) continue;
            const auto count = static_cast<std::size_t>(field.blocks);
            store(field.absmax, std::as_bytes(next.first(count)));
            next = next.subspan(count);
        }
    }

    void store(std::size_t section, std::span<const std::byte> bytes) {
        const Range range = intersect(section, bytes.size(), begin_, end_);
        if (range.empty()) return;
        std::memcpy(shard_.data() + (section + range.begin - begin_), bytes.data() + range.begin,
                    range.end - range.begin);
    }

    const WeightReader& reader_;
    const UnitLayout& unit_;
    const LayoutOptions& options_;
    Communicator& group_;
    int threads_;
    std::span<std::byte> shard_;
    std::size_t begin_, end_;
    std::vector<std::function<void()>> tasks_;
    std::vector<float> block_absmax_;  ///< empty if nothing is quantized to 4 bits here
    std::vector<float> row_absmax_;    ///< of the int8 fields, one after the other
};

/// Reads this rank's shard of a unit that is ready. Collective: the ranks' sums are added up.
std::int64_t import_stored(const StoredUnits& stored, const UnitLayout& unit, Communicator& group,
                           int threads, std::span<std::byte> shard) {
    const std::size_t begin = shard.size() * static_cast<std::size_t>(group.rank());
    const std::size_t bytes = begin < unit.bytes ? std::min(shard.size(), unit.bytes - begin) : 0;
    std::memset(shard.data() + bytes, 0, shard.size() - bytes);
    const auto task_bytes = static_cast<std::size_t>(kTaskBytes);
    std::vector<PositionSum> parts((bytes + task_bytes - 1) / task_bytes);
    agree(group, kReading, [&] {
        parallel_for(threads, std::ssize(parts), [&](std::int64_t task) {
            const std::size_t at = static_cast<std::size_t>(task) * task_bytes;
            const std::span<std::byte> part = shard.subspan(at, std::min(task_bytes, bytes - at));
            stored.read(unit.name, begin + at, part);
            parts[static_cast<std::size_t>(task)].add(part, begin + at);
        });
    });
    PositionSum mine, whole;
    for (const PositionSum& part : parts) mine += part;
    for (const PositionSum& part : group.all_gather_value(mine)) whole += part;
    stored.check_sum(unit.name, whole);
    std::int64_t weights = 0;
    for (const Field& field : unit.fields) weights += field.weight.count() / group.count();
    return weights;
}

}  // namespace

void quantize_elements(const WeightReader& reader, const WeightSpec& weight, DType plain_dtype,
                       const FourBitCode& code, std::int64_t first, std::int64_t count,
                       std::uint8_t* codes, float* absmax) {
    if (reader.reads_bf16(weight) || rounds_on_import(reader, weight, plain_dtype)) {
        const Room<bf16> values(count);
        reader.read_bf16(weight, first, values.all());
        require_finite<bf16>(weight, first, values.all());
        quantize_four_bit(code, values.all(), codes, absmax);
    } else {
        const Room<float> values(count);
        reader.read(weight, first, values.all());
        require_finite<float>(weight, first, values.all());
        quantize_four_bit(code, values.all(), codes, absmax);
    }
}

std::int64_t import_unit(const WeightReader& reader, const UnitLayout& unit,
                         const LayoutOptions& options, Communicator& group, int threads,
                         std::span<std::byte> shard) {
    check(shard.size() == unit.shard_bytes(group.count()), "a shard has the layout's bytes");
    if (const StoredUnits* stored = reader.stored_units()) {
        check(stored->options() == options, "a weight store's units are in the layout asked for");
        return import_stored(*stored, unit, group, threads, shard);
    }
    return UnitImport(reader, unit, options, group, threads, shard).run();
}

}  // namespace qshard
