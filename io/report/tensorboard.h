#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

/// TensorBoard event files: TFRecord frames around protobuf Event messages, both written by hand
/// (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto).
namespace qshard {

/// CRC-32C (Castagnoli), and its masked form as TFRecord stores it.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

/// length, masked CRC of the length, data, masked CRC of the data; integers little-endian.
std::string tfrecord_frame(std::string_view data);

/// Serialized Event messages: the first of a file, and one scalar.
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, std::int64_t step, std::string_view tag, float value);

/// One new event file per start of a run, as TensorBoard expects; rank 0 only. SystemError if it
/// cannot be written.
class EventWriter {
  public:
    explicit EventWriter(const std::filesystem::path& folder);
    ~EventWriter();
    EventWriter(const EventWriter&) = delete;
    EventWriter& operator=(const EventWriter&) = delete;

    /// TensorBoard hides the points of an earlier start whose step is not smaller than one written
    /// here.
    void scalar(std::string_view tag, std::int64_t step, double value);
    const std::filesystem::path& file() const { return file_; }

  private:
    void write(std::string_view record);

    std::filesystem::path file_;
    int fd_ = -1;
};

}  // namespace qshard
