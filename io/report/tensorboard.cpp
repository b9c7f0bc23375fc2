#include "io/report/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "io/checkpoint/atomic_file.h"

namespace qshard {
namespace {

constexpr std::string_view kFilePrefix = "events.out.tfevents.";

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

std::uint64_t read_little_endian(std::string_view bytes, std::size_t count) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < count; ++i)
        value |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
    return value;
}

/// The data of the frame that `rest` begins with, and moves on; nothing if there is no whole one.
std::optional<std::string_view> next_record(std::string_view& rest) {
    constexpr std::size_t kAround = 16;  // length, its CRC, the data's CRC
    if (rest.size() < kAround) return {};
    const std::uint64_t length = read_little_endian(rest, 8);
    if (length > rest.size() - kAround) return {};
    const std::string_view data = rest.substr(12, static_cast<std::size_t>(length));
    if (rest.substr(0, data.size() + kAround) != tfrecord_frame(data)) return {};
    rest.remove_prefix(data.size() + kAround);
    return data;
}

/// What matters here of an Event message.
struct RecordFacts {
    std::int64_t step = 0;    ///< field 2
    bool has_values = false;  ///< field 5, its summary
};

RecordFacts facts_of(std::string_view event) {
    const auto take_varint = [&event] {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64 && !event.empty(); shift += 7) {
            const auto byte = static_cast<unsigned char>(event.front());
            event.remove_prefix(1);
            value |= std::uint64_t{byte & 0x7fu} << shift;
            if (byte < 0x80) break;
        }
        return value;
    };
    RecordFacts facts;
    while (!event.empty()) {
        const std::uint64_t key = take_varint();
        std::uint64_t skipped = 0;
        switch (key & 7) {
            case 0: {
                const std::uint64_t value = take_varint();
                if (key >> 3 == 2) facts.step = static_cast<std::int64_t>(value);
                break;
            }
            case 1:
                skipped = 8;
                break;
            case 2:
                skipped = take_varint();
                facts.has_values |= key >> 3 == 5;
                break;
            default:
                skipped = 4;
        }
        event.remove_prefix(
            static_cast<std::size_t>(std::min<std::uint64_t>(skipped, event.size())));
    }
    return facts;
}

double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

/// Readers take the files in the order of the time in their names: now, but after the newest.
std::int64_t next_second(const std::filesystem::path& folder) {
    auto second = static_cast<std::int64_t>(now());
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        if (!name.starts_with(kFilePrefix)) continue;
        second = std::max<std::int64_t>(
            second, std::strtoll(name.c_str() + kFilePrefix.size(), nullptr, 10) + 1);
    }
    return second;
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

std::string restart_event(double wall_time, std::int64_t step) {
    constexpr std::uint64_t kStart = 1;  // SessionLog.SessionStatus
    return double_field(1, wall_time) + varint_field(2, static_cast<std::uint64_t>(step)) +
           bytes_field(7, varint_field(1, kStart));
}

void forget_events_after(const std::filesystem::path& folder, std::int64_t step) {
    std::error_code error;
    std::vector<std::filesystem::path> files;
    for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
         at.increment(error)) {
        if (at->path().filename().string().starts_with(kFilePrefix) && at->is_regular_file(error)) {
            files.push_back(at->path());
        }
    }
    for (const std::filesystem::path& file : files) {
        const std::vector<std::byte> bytes = read_file(file, std::size_t{1} << 40);
        const std::string_view all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        std::string kept;
        bool points = false;
        for (std::string_view rest = all; const auto record = next_record(rest);) {
            const RecordFacts facts = facts_of(*record);
            if (facts.step > step) continue;
            kept += tfrecord_frame(*record);
            points |= facts.has_values;
        }
        if (!points) {
            std::filesystem::remove(file, error);
        } else if (kept.size() != all.size()) {
            write_file_atomic(file, std::string_view(kept));
        }
    }
}

EventWriter::EventWriter(const std::filesystem::path& folder, std::int64_t first_step) {
    make_folder(folder);
    char host[256] = "localhost";
    ::gethostname(host, sizeof host - 1);
    file_ = folder /
            fmt::format("{}{:010}.{}.{}.0", kFilePrefix, next_second(folder), host, ::getpid());
    fd_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd_ < 0) {
        throw SystemError(ExitCode::kCannotCreate,
                          fmt::format("creating {}: {}", file_.string(), std::strerror(errno)));
    }
    write(version_event(now()));
    if (first_step > 1) write(restart_event(now(), first_step));
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
