#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qshard::tok {

inline constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 20;
inline constexpr std::size_t kMaxTokenBytes = std::size_t{64} << 10;

/// A fast hash of a few bytes; not for hostile keys in unbounded tables.
std::uint64_t hash_bytes(const char* bytes, std::size_t count);

/// Tokens by id and ids by token.
class Vocabulary {
  public:
    /// UserError if the id or the token is over its limit or the id has another token. A token may
    /// be inserted under several ids: find() gives the last.
    void insert(std::int64_t id, std::string_view token);
    /// -1 if absent.
    std::int32_t find(std::string_view token) const;
    bool contains(std::int32_t id) const {
        return id >= 0 && static_cast<std::size_t>(id) < spans_.size() && spans_[id].present;
    }
    /// Empty if absent.
    std::string_view token(std::int32_t id) const;
    /// The highest id plus one.
    std::int32_t count() const { return static_cast<std::int32_t>(spans_.size()); }

  private:
    struct Span {
        std::size_t begin = 0;
        std::uint32_t bytes = 0;
        bool present = false;
    };
    std::size_t slot_of(std::string_view token) const;
    void grow();

    std::string characters_;
    std::vector<Span> spans_;
    std::vector<std::int32_t> slots_;
    std::size_t used_ = 0;
};

/// What a pair of adjacent symbols merges into, and how early.
struct PairMerge {
    std::int32_t rank, merged;
};

/// Open-addressing map from a pair of 32-bit keys.
class PairTable {
  public:
    explicit PairTable(std::size_t expected);
    /// A later entry for the same pair replaces the earlier.
    void insert(std::int32_t left, std::int32_t right, PairMerge merge);
    const PairMerge* find(std::int32_t left, std::int32_t right) const {
        const std::uint64_t key = key_of(left, right);
        for (std::size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
            if (entries_[slot].key == key) return &entries_[slot].merge;
            if (entries_[slot].key == kEmpty) return nullptr;
        }
    }

  private:
    struct Entry {
        std::uint64_t key;
        PairMerge merge;
    };
    static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
    static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
        return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
               static_cast<std::uint32_t>(right);
    }
    std::size_t slot_of(std::uint64_t key) const {
        return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
    }
    std::vector<Entry> entries_;
    std::size_t mask_;
    int shift_;
};

}  // namespace qshard::tok
