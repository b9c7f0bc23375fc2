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
/// Tells a reader that has the file open already to drop what it knows of `step` and later.
std::string restart_event(double wall_time, std::int64_t step);

/// Takes the points after `step` out of the event files in `folder`, which a run that goes on from
/// there writes again: the curve then has one value a step for every reader. What follows a torn or
/// damaged record goes, too; a file without any point left is removed.
void forget_events_after(const std::filesystem::path& folder, std::int64_t step);

/// One new event file per start of a run, as TensorBoard expects; rank 0 only. SystemError if it
/// cannot be written.
class EventWriter {
  public:
    /// `first_step`: steps before it are in the files of earlier starts.
    explicit EventWriter(const std::filesystem::path& folder, std::int64_t first_step = 1);
    ~EventWriter();
    EventWriter(const EventWriter&) = delete;
    EventWriter& operator=(const EventWriter&) = delete;

    void scalar(std::string_view tag, std::int64_t step, double value);
    const std::filesystem::path& file() const { return file_; }

  private:
    void write(std::string_view record);

    std::filesystem::path file_;
    int fd_ = -1;
};

}  // namespace qshard
