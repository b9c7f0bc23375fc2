#include "io/formats/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <cstring>

#include "base/error.h"

namespace qshard {

std::uint64_t SafetensorsEntry::bytes() const {
    std::uint64_t bits = bits_of(type);
    for (std::int64_t extent : shape) bits *= static_cast<std::uint64_t>(extent);
    return bits / 8;
}

void sort_as_reference(std::vector<SafetensorsEntry>& entries) {
    std::ranges::sort(entries, [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
        return a.type != b.type ? a.type > b.type : a.name < b.name;
    });
}

std::string safetensors_header(std::span<const SafetensorsEntry> entries) {
    std::string json = R"({"__metadata__":{"format":"pt"})";
    std::uint64_t begin = 0;
    for (const SafetensorsEntry& entry : entries) {
        const std::uint64_t end = begin + entry.bytes();
        json += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                            boost::json::serialize(boost::json::string(entry.name)),
                            name_of(entry.type), fmt::join(entry.shape, ","), begin, end);
        begin = end;
    }
    json += '}';
    json.resize((json.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = json.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + json;
}

std::vector<std::byte> safetensors_bytes(std::vector<FloatTensorView> tensors) {
    std::ranges::sort(tensors, {}, &FloatTensorView::name);
    std::vector<SafetensorsEntry> entries;
    for (const FloatTensorView& tensor : tensors) {
        entries.push_back({tensor.name, SafetensorsType::kF32, tensor.shape});
    }
    const std::string header = safetensors_header(entries);
    std::size_t total = header.size();
    for (const FloatTensorView& tensor : tensors) total += tensor.values.size_bytes();

    std::vector<std::byte> bytes(total);
    std::byte* at = bytes.data();
    const auto append = [&at](const void* data, std::size_t count) {
        std::memcpy(at, data, count);
        at += count;
    };
    append(header.data(), header.size());
    for (const FloatTensorView& tensor : tensors) {
        append(tensor.values.data(), tensor.values.size_bytes());
    }
    return bytes;
}

}  // namespace qshard
