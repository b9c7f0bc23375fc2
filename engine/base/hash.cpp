#include "base/hash.h"

#include <openssl/evp.h>

#include <charconv>
#include <cstring>

#include "base/error.h"

namespace qshard {
namespace {

std::uint64_t mix(std::uint64_t x) {  // splitmix64's finalizer (Steele, Lea, Flood 2014)
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

}  // namespace

struct Sha256::State {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
    check(state_->context != nullptr &&
              EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1,
          "SHA-256 is available");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
    check(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1, "SHA-256 update");
}

void Sha256::update(const std::string& text) {
    update(std::as_bytes(std::span(text.data(), text.size())));
}

std::string Sha256::hex() {
    unsigned char digest[32];
    check(EVP_DigestFinal_ex(state_->context, digest, nullptr) == 1, "SHA-256 final");
    std::string text;
    for (unsigned char byte : digest) text += fmt::format("{:02x}", byte);
    return text;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
    Sha256 digest;
    digest.update(bytes);
    return digest.hex();
}

std::array<std::uint8_t, 32> sha256_of(std::span<const std::byte> bytes) {
    std::array<std::uint8_t, 32> digest{};
    check(
        EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr, EVP_sha256(), nullptr) == 1,
        "SHA-256");
    return digest;
}

std::string sha256_hex(const std::string& text) {
    return sha256_hex(std::as_bytes(std::span(text.data(), text.size())));
}

void PositionSum::add(std::span<const std::byte> bytes, std::uint64_t position) {
    check(position % 8 == 0 && bytes.size() % 8 == 0, "whole words are summed");
    for (std::size_t at = 0; at < bytes.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, 8);
        const std::uint64_t mixed = mix(word ^ mix(position + at + 0x9e3779b97f4a7c15u));
        words_[0] += mixed;
        words_[1] += mix(mixed + 0xd1b54a32d192ed03u);
    }
}

PositionSum& PositionSum::operator+=(const PositionSum& other) {
    words_[0] += other.words_[0];
    words_[1] += other.words_[1];
    return *this;
}

std::string PositionSum::hex() const {
    return fmt::format("{:016x}{:016x}", words_[0], words_[1]);
}

std::optional<PositionSum> PositionSum::from_hex(std::string_view text) {
    PositionSum sum;
    if (text.size() != 32) return std::nullopt;
    for (std::size_t i = 0; i < 2; ++i) {
        const char *begin = text.data() + 16 * i, *end = begin + 16;
        const auto result = std::from_chars(begin, end, sum.words_[i], 16);
        if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
    }
    return sum;
}

}  // namespace qshard
