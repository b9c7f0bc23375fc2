#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint/file_image.h"

/// HDF5 in RAII handles and checked calls, on files that live in memory: libhdf5 never opens a path
/// here, so it reads and writes nothing outside the bytes it is given. Every failure is a
/// SystemError with HDF5's own reason.
namespace qshard::h5 {

/// Owns one HDF5 identifier.
class Handle {
  public:
    using Closer = herr_t (*)(hid_t);

    Handle() = default;
    /// Takes what an HDF5 call returned; SystemError naming `doing` if that was a failure.
    Handle(hid_t id, Closer closer, const char* doing);
    Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
    Handle& operator=(Handle&& other) noexcept;
    ~Handle();

    hid_t get() const { return id_; }
    /// Closes now and checks the result, which reports late errors.
    void close();

  private:
    hid_t id_ = -1;
    Closer closer_ = nullptr;
};

/// SystemError naming `doing` unless `status` is non-negative.
void ensure(long long status, const char* doing);

/// A new file in memory: version bounds V110, no backing store.
class ImageWriter {
  public:
    ImageWriter();
    ~ImageWriter();
    ImageWriter(const ImageWriter&) = delete;
    ImageWriter& operator=(const ImageWriter&) = delete;

    hid_t file() const { return file_.get(); }
    /// Closes the file and returns its bytes. Every other handle into it must be closed. Call once.
    FileImage take();

  private:
    void* memory_ = nullptr;  // HDF5's own buffer, caught when the file closes
    Handle file_;
};
/// Opens bytes as a read-only file, plugins off. The bytes must outlive the handle.
Handle open_image(std::span<const std::byte> image);

Handle create_group(hid_t parent, const std::string& name);
/// One-dimensional, chunked, Fletcher32, no time stamps; count >= 1.
void write_vector(hid_t parent, const std::string& name, hid_t type, const void* data,
                  std::int64_t count);
void write_floats(hid_t parent, const std::string& name, std::span<const float> values);
/// One fixed-length UTF-8 string in a dataset of one element: any length, checksummed, readable in
/// h5dump and h5py.
void write_text(hid_t parent, const std::string& name, const std::string& text);
void write_attribute(hid_t object, const std::string& name, std::int64_t value);
void write_attribute(hid_t object, const std::string& name, std::uint64_t value);
void write_attribute(hid_t object, const std::string& name, double value);
void write_attribute(hid_t object, const std::string& name, const std::string& value);

/// Opens a member behind a hard link, never a soft or external one.
Handle open_group(hid_t parent, const std::string& name);
/// Opens a dataset and refuses what write_vector() does not write: another rank, other filters than
/// Fletcher32, external or virtual storage, a size that the file's own bytes do not back.
Handle open_vector(hid_t parent, const std::string& name, std::int64_t& count);
std::vector<float> read_floats(hid_t parent, const std::string& name);
std::string read_text(hid_t parent, const std::string& name);
void read_attribute(hid_t object, const std::string& name, std::int64_t& value);
void read_attribute(hid_t object, const std::string& name, std::uint64_t& value);
void read_attribute(hid_t object, const std::string& name, double& value);
void read_attribute(hid_t object, const std::string& name, std::string& value);
/// Names of the members or of the attributes, at most `limit` of them.
std::vector<std::string> member_names(hid_t group, std::size_t limit);
std::vector<std::string> attribute_names(hid_t object, std::size_t limit);

}  // namespace qshard::h5
