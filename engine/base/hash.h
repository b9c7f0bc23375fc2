#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

/// Digests (OpenSSL's libcrypto) and CRC-32 (zlib's polynomial).
namespace qshard {

/// Incremental SHA-256.
class Sha256 {
  public:
    Sha256();
    ~Sha256();
    Sha256(Sha256&&) noexcept;
    Sha256& operator=(Sha256&&) noexcept;
    void update(std::span<const std::byte> bytes);
    void update(const std::string& text);
    /// Ends the digest: 64 lower-case hexadecimal digits. Call once.
    std::string hex();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

std::string sha256_hex(std::span<const std::byte> bytes);
std::array<std::uint8_t, 32> sha256_of(std::span<const std::byte> bytes);
std::string sha256_hex(const std::string& text);

/// 128 bits over bytes by their position: the sums of parts add up to the sum of the whole, whoever
/// summed them. Finds accidents, not attacks.
class PositionSum {
  public:
    /// `position`, of the first byte, and the number of bytes are multiples of 8.
    void add(std::span<const std::byte> bytes, std::uint64_t position);
    PositionSum& operator+=(const PositionSum& other);
    bool operator==(const PositionSum&) const = default;
    std::string hex() const;  ///< 32 digits
    static std::optional<PositionSum> from_hex(std::string_view text);

  private:
    std::array<std::uint64_t, 2> words_{};
};

}  // namespace qshard
