#include "io/report/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"

namespace qshard {
namespace {

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
        table[i] = crc;
    }
    return table;
}();

template <class Integer>
std::string little_endian(Integer value) {
    std::string text(sizeof value, '\0');
    std::memcpy(text.data(), &value, sizeof value);
    return text;
}

std::string varint(std::uint64_t value) {
    std::string text;
    for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
    return text + static_cast<char>(value);
}

/// Protobuf field headers: number and wire type.
std::string varint_field(int number, std::uint64_t value) {
    return varint(static_cast<std::uint64_t>(number) << 3) + varint(value);
}
std::string double_field(int number, double value) {
    return varint(static_cast<std::uint64_t>(number) << 3 | 1) +
           little_endian(std::bit_cast<std::uint64_t>(value));
}
std::string float_field(int number, float value) {
    return varint(static_cast<std::uint64_t>(number) << 3 | 5) +
           little_endian(std::bit_cast<std::uint32_t>(value));
}
std::string bytes_field(int number, std::string_view bytes) {
    return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(bytes.size()) +
           std::string(bytes);
}

double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
    std::uint32_t crc = ~0u;
    for (char byte : bytes)
        crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
    return ~crc;
}

std::uint32_t masked_crc32c(std::string_view bytes) {
    return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string tfrecord_frame(std::string_view data) {
    const std::string length = little_endian(static_cast<std::uint64_t>(data.size()));
    return length + little_endian(masked_crc32c(length)) + std::string(data) +
           little_endian(masked_crc32c(data));
}

std::string version_event(double wall_time) {
    return double_field(1, wall_time) + bytes_field(3, "brain.Event:2");
}

std::string scalar_event(double wall_time, std::int64_t step, std::string_view tag, float value) {
    const std::string entry = bytes_field(1, tag) + float_field(2, value);
    return double_field(1, wall_time) + varint_field(2, static_cast<std::uint64_t>(step)) +
           bytes_field(5, bytes_field(1, entry));
}

EventWriter::EventWriter(const std::filesystem::path& folder) {
    make_folder(folder);
    char host[256] = "localhost";
    ::gethostname(host, sizeof host - 1);
    file_ = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.0",
                                 static_cast<std::int64_t>(now()), host, ::getpid());
    fd_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd_ < 0) {
        throw SystemError(ExitCode::kCannotCreate,
                          fmt::format("creating {}: {}", file_.string(), std::strerror(errno)));
    }
    write(version_event(now()));
}

EventWriter::~EventWriter() {
    if (fd_ >= 0) ::close(fd_);
}

void EventWriter::scalar(std::string_view tag, std::int64_t step, double value) {
    write(scalar_event(now(), step, tag, static_cast<float>(value)));
}

void EventWriter::write(std::string_view record) {
    const std::string frame = tfrecord_frame(record);
    // One call a frame: with O_APPEND a kill leaves whole frames, except on a full disk.
    const ssize_t written = ::write(fd_, frame.data(), frame.size());
    if (written != std::ssize(frame)) {
        throw SystemError(fmt::format("writing {}: {}", file_.string(),
                                      written < 0 ? std::strerror(errno) : "disk full"));
    }
}

}  // namespace qshard
