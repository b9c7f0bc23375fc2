#include "place/device_group.h"

#include <algorithm>

namespace qshard {

void DeviceGroup::exchange(std::vector<SendPiece> sends, std::vector<RecvPiece> receives) {
    if (!needs_staging(backend_, group_)) {
        group_.exchange(std::move(sends), std::move(receives)).wait();
        return;
    }
    std::size_t bytes = 0;
    for (const SendPiece& piece : sends) bytes += piece.bytes.size();
    for (const RecvPiece& piece : receives) bytes += piece.bytes.size();
    staging_.resize(std::max(staging_.size(), bytes));
    std::byte* next = staging_.data();
    for (SendPiece& piece : sends) {
        backend_.download(next, piece.bytes.data(), piece.bytes.size());
        piece.bytes = {next, piece.bytes.size()};
        next += piece.bytes.size();
    }
    std::vector<std::byte*> places;
    for (RecvPiece& piece : receives) {
        places.push_back(piece.bytes.data());
        piece.bytes = {next, piece.bytes.size()};
        next += piece.bytes.size();
    }
    const std::vector<RecvPiece> received = receives;
    group_.exchange(std::move(sends), std::move(receives)).wait();
    for (std::size_t i = 0; i < received.size(); ++i) {
        backend_.upload(places[i], received[i].bytes.data(), received[i].bytes.size());
    }
}

void DeviceGroup::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
    if (!needs_staging(backend_, group_)) {
        group_.all_gather(mine, all).wait();
        return;
    }
    staging_.resize(std::max(staging_.size(), all.size()));
    const std::span<std::byte> host(staging_.data(), all.size());
    const auto own =
        host.subspan(mine.size() * static_cast<std::size_t>(group_.rank()), mine.size());
    backend_.download(own.data(), mine.data(), mine.size());
    group_.all_gather(own, host).wait();
    backend_.upload(all.data(), host.data(), host.size());
}

}  // namespace qshard
