#include "io/tokenizer/vocabulary.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace qshard::tok {

std::uint64_t hash_bytes(const char* bytes, std::size_t count) {
    std::uint64_t hash = count * 0x9E3779B97F4A7C15u;
    const auto mix = [&hash](std::uint64_t word) {
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
    };
    for (; count >= 8; bytes += 8, count -= 8) {
        std::uint64_t word;
        std::memcpy(&word, bytes, 8);
        mix(word);
    }
    std::uint64_t tail = 0;
    std::memcpy(&tail, bytes, count);
    mix(tail);
    return hash * 0x9E3779B97F4A7C15u;
}

void Vocabulary::insert(std::int64_t id, std::string_view token) {
    if (id < 0 || id >= kMaxVocabulary) {
        throw UserError(fmt::format("token id {} is outside 0..{}", id, kMaxVocabulary - 1));
    }
    if (token.size() > kMaxTokenBytes) {
        throw UserError(fmt::format("token {} has {} bytes; at most {} are accepted", id,
                                    token.size(), kMaxTokenBytes));
    }
    if (static_cast<std::size_t>(id) >= spans_.size())
        spans_.resize(static_cast<std::size_t>(id) + 1);
    Span& span = spans_[static_cast<std::size_t>(id)];
    if (span.present) {
        if (this->token(static_cast<std::int32_t>(id)) == token) return;
        throw UserError(fmt::format("token id {} belongs to both \"{}\" and \"{}\"", id,
                                    this->token(static_cast<std::int32_t>(id)), token));
    }
    span = {characters_.size(), static_cast<std::uint32_t>(token.size()), true};
    characters_.append(token);
    if ((used_ + 1) * 2 > slots_.size()) grow();
    std::int32_t& slot = slots_[slot_of(token)];
    used_ += slot < 0;
    slot = static_cast<std::int32_t>(id);
}

std::int32_t Vocabulary::find(std::string_view token) const {
    return slots_.empty() ? -1 : slots_[slot_of(token)];
}

std::string_view Vocabulary::token(std::int32_t id) const {
    if (!contains(id)) return {};
    return std::string_view(characters_).substr(spans_[id].begin, spans_[id].bytes);
}

std::size_t Vocabulary::slot_of(std::string_view token) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash_bytes(token.data(), token.size()) >> 32 & mask;
    while (slots_[slot] >= 0 && this->token(slots_[slot]) != token) slot = (slot + 1) & mask;
    return slot;
}

void Vocabulary::grow() {
    std::vector<std::int32_t> old(slots_.size() < 512 ? 1024 : slots_.size() * 2, -1);
    old.swap(slots_);
    for (const std::int32_t id : old) {
        if (id >= 0) slots_[slot_of(token(id))] = id;
    }
}

PairTable::PairTable(std::size_t expected) {
    const std::size_t capacity = std::bit_ceil(expected * 2 + 2);
    entries_.assign(capacity, {kEmpty, {0, 0}});
    mask_ = capacity - 1;
    shift_ = 64 - std::countr_zero(capacity);
}

void PairTable::insert(std::int32_t left, std::int32_t right, PairMerge merge) {
    const std::uint64_t key = key_of(left, right);
    std::size_t slot = slot_of(key);
    while (entries_[slot].key != kEmpty && entries_[slot].key != key) slot = (slot + 1) & mask_;
    entries_[slot] = {key, merge};
}

}  // namespace qshard::tok
