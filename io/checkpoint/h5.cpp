#include "io/checkpoint/h5.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace qshard::h5 {
namespace {

/// The name of files in memory: HDF5 refuses one that also is a file's, and this never is.
constexpr const char* kNoFile = "/dev/null/checkpoint";

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;  // the default chunk cache holds one
constexpr std::size_t kMaxAttributeBytes = 60000;            // object headers hold less than 64 KiB

/// The innermost line of HDF5's error stack says what went wrong.
std::string take_reason() {
    std::string reason;
    const auto visit = [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
        if (entry->desc != nullptr) *static_cast<std::string*>(out) = entry->desc;
        return 0;
    };
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, visit, &reason);
    H5Eclear2(H5E_DEFAULT);
    return reason.empty() ? "unknown reason" : reason;
}

void start_library() {
    static const bool started = [] {
        ensure(H5open(), "starting HDF5");
        ensure(H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr), "starting HDF5");
        ensure(H5PLset_loading_state(0), "turning HDF5 plugins off");
        return true;
    }();
    static_cast<void>(started);
}

Handle in_memory_access() {
    start_library();
    Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "creating a property list");
    ensure(H5Pset_fapl_core(access.get(), std::size_t{8} << 20, false), "choosing memory files");
    ensure(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), "format bounds");
    return access;
}

Handle scalar_space() {
    return {H5Screate(H5S_SCALAR), H5Sclose, "creating a dataspace"};
}

Handle string_type(std::size_t bytes) {
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose, "creating a string type");
    ensure(H5Tset_size(type.get(), std::max<std::size_t>(bytes, 1)), "sizing a string type");
    ensure(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "padding a string type");
    ensure(H5Tset_cset(type.get(), H5T_CSET_UTF8), "encoding a string type");
    return type;
}

/// How to create an object without the time stamps that would make equal files differ.
Handle untimed(hid_t property_class) {
    Handle list(H5Pcreate(property_class), H5Pclose, "creating a property list");
    ensure(H5Pset_obj_track_times(list.get(), false), "choosing time stamps");
    return list;
}

void put_attribute(hid_t object, const std::string& name, hid_t type, const void* data) {
    const Handle space = scalar_space();
    Handle attribute(H5Acreate2(object, name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                     H5Aclose, "creating an attribute");
    ensure(H5Awrite(attribute.get(), type, data), "writing an attribute");
    attribute.close();
}

Handle open_attribute(hid_t object, const std::string& name) {
    Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose,
                     fmt::format("opening attribute \"{}\"", name).c_str());
    const Handle space(H5Aget_space(attribute.get()), H5Sclose, "reading an attribute");
    if (H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) {
        throw SystemError(fmt::format("attribute \"{}\" is not a single value", name));
    }
    return attribute;
}

void expect_type(hid_t type, hid_t expected, const std::string& name) {
    if (H5Tequal(type, expected) <= 0) {
        throw SystemError(fmt::format("\"{}\" has another type than expected", name));
    }
}

void get_attribute(hid_t object, const std::string& name, hid_t type, void* data) {
    const Handle attribute = open_attribute(object, name);
    const Handle found(H5Aget_type(attribute.get()), H5Tclose, "reading an attribute");
    expect_type(found.get(), type, name);
    ensure(H5Aread(attribute.get(), type, data), "reading an attribute");
}

/// The string type itself, if it is what string_type() makes; anything else (variable length too)
/// is refused.
std::size_t string_bytes(hid_t type, const std::string& name) {
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0) {
        throw SystemError(fmt::format("\"{}\" is not a fixed-length string", name));
    }
    const std::size_t bytes = H5Tget_size(type);
    expect_type(type, string_type(bytes).get(), name);
    return bytes;
}

void trim(std::string& text) {
    text.resize(text.find_last_not_of('\0') + 1);
}

void expect_hard_link(hid_t parent, const std::string& name) {
    H5L_info_t info{};
    ensure(H5Lget_info(parent, name.c_str(), &info, H5P_DEFAULT),
           fmt::format("looking for \"{}\"", name).c_str());
    if (info.type != H5L_TYPE_HARD) {
        throw SystemError(fmt::format("\"{}\" is a soft or external link, which is refused", name));
    }
}

void expect_plain_storage(hid_t dataset, const std::string& name) {
    const Handle list(H5Dget_create_plist(dataset), H5Pclose, "reading dataset properties");
    unsigned flags = 0, config = 0;
    std::size_t parameters = 0;
    const bool plain = H5Pget_layout(list.get()) == H5D_CHUNKED &&
                       H5Pget_external_count(list.get()) == 0 && H5Pget_nfilters(list.get()) == 1 &&
                       H5Pget_filter2(list.get(), 0, &flags, &parameters, nullptr, 0, nullptr,
                                      &config) == H5Z_FILTER_FLETCHER32;
    if (!plain) {
        throw SystemError(fmt::format(
            "\"{}\" is not a chunked dataset with a Fletcher32 checksum and nothing else", name));
    }
}

}  // namespace

Handle::Handle(hid_t id, Closer closer, const char* doing) : id_(id), closer_(closer) {
    ensure(id, doing);
}

Handle& Handle::operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
}

Handle::~Handle() {
    if (id_ >= 0) closer_(id_);
}

void Handle::close() {
    ensure(closer_(std::exchange(id_, -1)), "closing an HDF5 object");
}

void ensure(long long status, const char* doing) {
    if (status < 0) throw SystemError(fmt::format("HDF5: {}: {}", doing, take_reason()));
}

// H5Fget_file_image() of 1.10 returns a superblock of version 3 whose checksum is wrong (it clears
// the "open for writing" mark afterwards), so the bytes are caught where H5Fclose() would free
// them, after it has finished them.
ImageWriter::ImageWriter() {
    H5FD_file_image_callbacks_t callbacks = {
        [](std::size_t bytes, H5FD_file_image_op_t, void*) { return std::malloc(bytes); },
        [](void* to, const void* from, std::size_t bytes, H5FD_file_image_op_t, void*) {
            return std::memcpy(to, from, bytes);
        },
        [](void* memory, std::size_t bytes, H5FD_file_image_op_t, void*) {
            return std::realloc(memory, bytes);
        },
        [](void* memory, H5FD_file_image_op_t operation, void* caught) -> herr_t {
            if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE) {
                *static_cast<void**>(caught) = memory;
            } else {
                std::free(memory);
            }
            return 0;
        },
        [](void* caught) { return caught; },
        [](void*) -> herr_t { return 0; },
        &memory_};
    const Handle access = in_memory_access();
    ensure(H5Pset_file_image_callbacks(access.get(), &callbacks), "choosing memory files");
    const Handle create = untimed(H5P_FILE_CREATE);
    const hid_t made = H5Fcreate(kNoFile, H5F_ACC_TRUNC, create.get(), access.get());
    if (made < 0) {  // it touches nothing but memory
        throw SystemError(ExitCode::kUnavailable,
                          fmt::format("no memory for a checkpoint (ulimit -v, or the limit of the "
                                      "job or container): HDF5: {}",
                                      take_reason()));
    }
    file_ = Handle(made, H5Fclose, "creating a file in memory");
}

ImageWriter::~ImageWriter() {
    file_ = Handle();
    std::free(memory_);
}

FileImage ImageWriter::take() {
    constexpr std::size_t kEndOfFileField = 28;  // in a superblock of version 2 or 3
    check(H5Fget_obj_count(file_.get(), H5F_OBJ_ALL) == 1, "only the file itself is still open");
    file_.close();
    check(memory_ != nullptr, "HDF5 hands over the file's memory when it closes");
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, static_cast<const std::byte*>(memory_) + kEndOfFileField, sizeof bytes);
    return {std::exchange(memory_, nullptr), bytes};
}

Handle open_image(std::span<const std::byte> image) {
    // HDF5 would copy the bytes twice; these callbacks lend it the caller's, which a read-only file
    // never changes.
    void* bytes = const_cast<std::byte*>(image.data());
    H5FD_file_image_callbacks_t lend = {
        [](std::size_t, H5FD_file_image_op_t, void* lent) { return lent; },
        [](void* to, const void*, std::size_t, H5FD_file_image_op_t, void*) { return to; },
        nullptr,
        [](void*, H5FD_file_image_op_t, void*) -> herr_t { return 0; },
        [](void* lent) { return lent; },
        [](void*) -> herr_t { return 0; },
        bytes};
    const Handle access = in_memory_access();
    ensure(H5Pset_file_image_callbacks(access.get(), &lend), "choosing memory files");
    ensure(H5Pset_file_image(access.get(), bytes, image.size()), "passing a file in memory");
    return {H5Fopen(kNoFile, H5F_ACC_RDONLY, access.get()), H5Fclose, "opening a file in memory"};
}

Handle create_group(hid_t parent, const std::string& name) {
    const Handle create = untimed(H5P_GROUP_CREATE);
    return {H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, create.get(), H5P_DEFAULT), H5Gclose,
            "creating a group"};
}

void write_vector(hid_t parent, const std::string& name, hid_t type, const void* data,
                  std::int64_t count) {
    check(count >= 1, "an HDF5 dataset here has at least one element");
    const auto dims = static_cast<hsize_t>(count);
    const auto element_bytes = static_cast<std::int64_t>(H5Tget_size(type));
    const auto chunk =
        static_cast<hsize_t>(std::clamp<std::int64_t>(kChunkBytes / element_bytes, 1, count));
    const Handle list = untimed(H5P_DATASET_CREATE);
    ensure(H5Pset_chunk(list.get(), 1, &chunk), "choosing chunks");
    ensure(H5Pset_fletcher32(list.get()), "choosing checksums");
    ensure(H5Pset_fill_time(list.get(), H5D_FILL_TIME_NEVER), "choosing fill time");
    const Handle space(H5Screate_simple(1, &dims, nullptr), H5Sclose, "creating a dataspace");
    Handle dataset(
        H5Dcreate2(parent, name.c_str(), type, space.get(), H5P_DEFAULT, list.get(), H5P_DEFAULT),
        H5Dclose, "creating a dataset");
    ensure(H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "writing a dataset");
    dataset.close();
}

void write_floats(hid_t parent, const std::string& name, std::span<const float> values) {
    write_vector(parent, name, H5T_IEEE_F32LE, values.data(), std::ssize(values));
}

void write_text(hid_t parent, const std::string& name, const std::string& text) {
    const Handle type = string_type(text.size());
    write_vector(parent, name, type.get(), text.c_str(), 1);
}

void write_attribute(hid_t object, const std::string& name, std::int64_t value) {
    put_attribute(object, name, H5T_STD_I64LE, &value);
}

void write_attribute(hid_t object, const std::string& name, std::uint64_t value) {
    put_attribute(object, name, H5T_STD_U64LE, &value);
}

void write_attribute(hid_t object, const std::string& name, double value) {
    put_attribute(object, name, H5T_IEEE_F64LE, &value);
}

void write_attribute(hid_t object, const std::string& name, const std::string& value) {
    check(value.size() <= kMaxAttributeBytes, "an attribute's text fits an object header");
    const Handle type = string_type(value.size());
    put_attribute(object, name, type.get(), value.c_str());
}

Handle open_group(hid_t parent, const std::string& name) {
    expect_hard_link(parent, name);
    return {H5Gopen2(parent, name.c_str(), H5P_DEFAULT), H5Gclose,
            fmt::format("opening group \"{}\"", name).c_str()};
}

Handle open_vector(hid_t parent, const std::string& name, std::int64_t& count) {
    expect_hard_link(parent, name);
    Handle dataset(H5Dopen2(parent, name.c_str(), H5P_DEFAULT), H5Dclose,
                   fmt::format("opening dataset \"{}\"", name).c_str());
    expect_plain_storage(dataset.get(), name);
    const Handle space(H5Dget_space(dataset.get()), H5Sclose, "reading a dataspace");
    const Handle type(H5Dget_type(dataset.get()), H5Tclose, "reading a type");
    hsize_t dims = 0;
    if (H5Sget_simple_extent_ndims(space.get()) != 1 ||
        H5Sget_simple_extent_dims(space.get(), &dims, nullptr) != 1) {
        throw SystemError(fmt::format("\"{}\" is not one-dimensional", name));
    }
    // Unwritten chunks would read as fill values: a declared size must be backed by stored bytes.
    const hsize_t stored = H5Dget_storage_size(dataset.get());
    if (dims == 0 || dims > stored / H5Tget_size(type.get())) {
        throw SystemError(
            fmt::format("\"{}\" declares {} elements, but stores {} bytes", name, dims, stored));
    }
    count = static_cast<std::int64_t>(dims);
    return dataset;
}

std::vector<float> read_floats(hid_t parent, const std::string& name) {
    std::int64_t count = 0;
    const Handle dataset = open_vector(parent, name, count);
    const Handle type(H5Dget_type(dataset.get()), H5Tclose, "reading a type");
    expect_type(type.get(), H5T_IEEE_F32LE, name);
    std::vector<float> values(static_cast<std::size_t>(count));
    ensure(H5Dread(dataset.get(), H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
           fmt::format("reading \"{}\"", name).c_str());
    return values;
}

std::string read_text(hid_t parent, const std::string& name) {
    std::int64_t count = 0;
    const Handle dataset = open_vector(parent, name, count);
    const Handle type(H5Dget_type(dataset.get()), H5Tclose, "reading a type");
    std::string text(string_bytes(type.get(), name), '\0');
    if (count != 1) throw SystemError(fmt::format("\"{}\" holds {} strings", name, count));
    ensure(H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()),
           fmt::format("reading \"{}\"", name).c_str());
    trim(text);
    return text;
}

void read_attribute(hid_t object, const std::string& name, std::int64_t& value) {
    get_attribute(object, name, H5T_STD_I64LE, &value);
}

void read_attribute(hid_t object, const std::string& name, std::uint64_t& value) {
    get_attribute(object, name, H5T_STD_U64LE, &value);
}

void read_attribute(hid_t object, const std::string& name, double& value) {
    get_attribute(object, name, H5T_IEEE_F64LE, &value);
}

void read_attribute(hid_t object, const std::string& name, std::string& value) {
    const Handle attribute = open_attribute(object, name);
    const Handle type(H5Aget_type(attribute.get()), H5Tclose, "reading an attribute");
    const std::size_t bytes = string_bytes(type.get(), name);
    if (bytes > kMaxAttributeBytes) {
        throw SystemError(fmt::format("attribute \"{}\" declares {} bytes", name, bytes));
    }
    value.assign(bytes, '\0');
    ensure(H5Aread(attribute.get(), type.get(), value.data()), "reading an attribute");
    trim(value);
}

std::vector<std::string> member_names(hid_t group, std::size_t limit) {
    H5G_info_t info{};
    ensure(H5Gget_info(group, &info), "listing a group");
    if (info.nlinks > limit) throw SystemError(fmt::format("a group has {} members", info.nlinks));
    std::vector<std::string> names;
    for (hsize_t i = 0; i < info.nlinks; ++i) {
        char name[256] = {};
        ensure(H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name,
                                  H5P_DEFAULT),
               "listing a group");
        names.emplace_back(name);
    }
    return names;
}

std::vector<std::string> attribute_names(hid_t object, std::size_t limit) {
    // HDF5 1.12 changed what the older names mean.
#if H5_VERSION_GE(1, 12, 0)
    H5O_info2_t info{};
    ensure(H5Oget_info3(object, &info, H5O_INFO_NUM_ATTRS), "listing attributes");
#else
    H5O_info_t info{};
    ensure(H5Oget_info2(object, &info, H5O_INFO_NUM_ATTRS), "listing attributes");
#endif
    if (info.num_attrs > limit) {
        throw SystemError(fmt::format("an object has {} attributes", info.num_attrs));
    }
    std::vector<std::string> names;
    for (hsize_t i = 0; i < info.num_attrs; ++i) {
        char name[256] = {};
        ensure(H5Aget_name_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name,
                                  H5P_DEFAULT),
               "listing attributes");
        names.emplace_back(name);
    }
    return names;
}

}  // namespace qshard::h5
