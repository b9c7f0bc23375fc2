#include "io/peft/safetensors_writer.h"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <cstring>

#include "base/error.h"

namespace qshard {
namespace {

std::string header_of(const std::vector<FloatTensorView>& tensors) {
    std::string header = R"({"__metadata__":{"format":"pt"})";
    std::size_t begin = 0;
    for (const FloatTensorView& tensor : tensors) {
        const std::size_t end = begin + tensor.values.size_bytes();
        header += fmt::format(",{}:{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                              boost::json::serialize(boost::json::string(tensor.name)),
                              fmt::join(tensor.shape, ","), begin, end);
        begin = end;
    }
    header += '}';
    header.resize((header.size() + 7) / 8 * 8, ' ');
    return header;
}

}  // namespace

std::vector<std::byte> safetensors_bytes(std::vector<FloatTensorView> tensors) {
    std::ranges::sort(tensors, {}, &FloatTensorView::name);
    const std::string header = header_of(tensors);
    const std::uint64_t header_bytes = header.size();
    std::size_t total = sizeof header_bytes + header.size();
    for (const FloatTensorView& tensor : tensors) total += tensor.values.size_bytes();

    std::vector<std::byte> bytes(total);
    std::byte* at = bytes.data();
    const auto append = [&at](const void* data, std::size_t count) {
        std::memcpy(at, data, count);
        at += count;
    };
    append(&header_bytes, sizeof header_bytes);
    append(header.data(), header.size());
    for (const FloatTensorView& tensor : tensors) {
        append(tensor.values.data(), tensor.values.size_bytes());
    }
    return bytes;
}

}  // namespace qshard
