#pragma once

#include <array>
#include <cstdint>

/// Counter-based randomness: a value is a pure function of its key and counter, so it does not
/// depend on ranks, threads, order or resumes. Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel
/// random numbers: as easy as 1, 2, 3", SC 2011).
namespace qshard {

/// What a random number is for; part of the key, so that two uses never share a stream.
enum class Purpose : std::uint32_t {
    kInit = 1,
    kShuffle = 2,
    kDropout = 3,
    kSampling = 4,
    kSplit = 5,
    kTestData = 6,
};

using PhiloxBlock = std::array<std::uint32_t, 4>;

constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter[0];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter[2];
        counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0],
                   static_cast<std::uint32_t>(p1),
                   static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1],
                   static_cast<std::uint32_t>(p0)};
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return counter;
}

/// One stream of random numbers: (seed, purpose, a, b) select it, `index` walks it.
/// The counter is (index low, index high, a, b), the key (seed low, seed high ^ purpose scrambled).
class Philox {
  public:
    constexpr Philox(std::uint64_t seed, Purpose purpose, std::uint32_t a = 0, std::uint32_t b = 0)
        : key_{static_cast<std::uint32_t>(seed),
               static_cast<std::uint32_t>(seed >> 32) ^
                   (static_cast<std::uint32_t>(purpose) * 0x85EBCA6Bu)},
          a_(a),
          b_(b) {}

    constexpr PhiloxBlock block(std::uint64_t index) const {
        return philox4x32(
            {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), a_, b_},
            key_);
    }
    /// Number `index` of the stream, uniform over 32 bits.
    constexpr std::uint32_t bits(std::uint64_t index) const { return block(index >> 2)[index & 3]; }
    /// Number `index` of the stream, uniform in [0, 1) on a grid of 2^-24 (exact in float).
    constexpr float uniform(std::uint64_t index) const {
        return static_cast<float>(bits(index) >> 8) * 0x1p-24f;
    }
    /// Number `index` of the stream, uniform in [0, bound); bound >= 1 (64-bit multiply-shift; bias
    /// below 2^-32).
    constexpr std::uint64_t below(std::uint64_t index, std::uint64_t bound) const {
        const PhiloxBlock r = block(index);
        const std::uint64_t x = (std::uint64_t{r[0]} << 32) | r[1];
        return static_cast<std::uint64_t>((static_cast<unsigned __int128>(x) * bound) >> 64);
    }

  private:
    std::array<std::uint32_t, 2> key_;
    std::uint32_t a_, b_;
};

}  // namespace qshard
