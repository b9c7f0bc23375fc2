#include "io/checkpoint/image.h"

#include <array>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint/h5.h"

namespace qshard {
namespace {

constexpr const char* kFormat = "qshard-checkpoint";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMaxNameBytes = 512;
constexpr std::size_t kMaxMembers = 256;

/// What a row of /adapter/index holds besides the name.
struct IndexNumbers {
    std::int64_t rank = 0;
    std::array<std::int64_t, 4> shape{};
    std::int64_t offset = 0, count = 0;
    double initial_norm = 0, update_norm = 0;
};

h5::Handle index_type(std::size_t name_bytes) {
    const std::size_t row_bytes = name_bytes + sizeof(IndexNumbers);
    h5::Handle row(H5Tcreate(H5T_COMPOUND, row_bytes), H5Tclose, "creating the index type");
    h5::Handle name(H5Tcopy(H5T_C_S1), H5Tclose, "creating the index type");
    h5::ensure(H5Tset_size(name.get(), name_bytes), "creating the index type");
    h5::ensure(H5Tset_strpad(name.get(), H5T_STR_NULLPAD), "creating the index type");
    h5::ensure(H5Tset_cset(name.get(), H5T_CSET_UTF8), "creating the index type");
    const hsize_t four = 4;
    const h5::Handle shape(H5Tarray_create2(H5T_STD_I64LE, 1, &four), H5Tclose,
                           "creating the index type");
    const auto insert = [&](const char* field, std::size_t offset, hid_t type) {
        h5::ensure(H5Tinsert(row.get(), field, offset, type), "creating the index type");
    };
    insert("name", 0, name.get());
    insert("rank", name_bytes + offsetof(IndexNumbers, rank), H5T_STD_I64LE);
    insert("shape", name_bytes + offsetof(IndexNumbers, shape), shape.get());
    insert("offset", name_bytes + offsetof(IndexNumbers, offset), H5T_STD_I64LE);
    insert("count", name_bytes + offsetof(IndexNumbers, count), H5T_STD_I64LE);
    insert("initial_norm", name_bytes + offsetof(IndexNumbers, initial_norm), H5T_IEEE_F64LE);
    insert("update_norm", name_bytes + offsetof(IndexNumbers, update_norm), H5T_IEEE_F64LE);
    return row;
}

void write_index(hid_t group, const std::vector<NamedTensor>& tensors) {
    std::size_t name_bytes = 1;
    for (const NamedTensor& tensor : tensors) {
        name_bytes = std::max(name_bytes, tensor.name.size());
    }
    const std::size_t row_bytes = name_bytes + sizeof(IndexNumbers);
    std::vector<char> rows(row_bytes * tensors.size(), '\0');
    char* row = rows.data();
    for (const NamedTensor& tensor : tensors) {
        IndexNumbers numbers{
            std::ssize(tensor.shape), {}, tensor.offset, tensor.count(), tensor.initial_norm,
            tensor.update_norm};
        std::copy(tensor.shape.begin(), tensor.shape.end(), numbers.shape.begin());
        std::memcpy(row, tensor.name.data(), tensor.name.size());
        std::memcpy(row + name_bytes, &numbers, sizeof numbers);
        row += row_bytes;
    }
    const h5::Handle type = index_type(name_bytes);
    h5::write_vector(group, "index", type.get(), rows.data(), std::ssize(tensors));
}

std::vector<NamedTensor> read_index(hid_t group) {
    std::int64_t count = 0;
    const h5::Handle dataset = h5::open_vector(group, "index", count);
    const h5::Handle found(H5Dget_type(dataset.get()), H5Tclose, "reading the index type");
    const std::size_t row_bytes = H5Tget_size(found.get());
    if (row_bytes <= sizeof(IndexNumbers) || row_bytes > sizeof(IndexNumbers) + kMaxNameBytes) {
        throw SystemError(fmt::format("index rows have {} bytes", row_bytes));
    }
    const std::size_t name_bytes = row_bytes - sizeof(IndexNumbers);
    const h5::Handle type = index_type(name_bytes);
    if (H5Tequal(found.get(), type.get()) <= 0) {
        throw SystemError("the index has other columns than expected");
    }
    std::vector<char> rows(row_bytes * static_cast<std::size_t>(count));
    h5::ensure(H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, rows.data()),
               "reading the index");

    std::vector<NamedTensor> tensors;
    for (const char* row = rows.data(); row != rows.data() + rows.size(); row += row_bytes) {
        IndexNumbers numbers;
        std::memcpy(&numbers, row + name_bytes, sizeof numbers);
        if (numbers.rank < 1 || numbers.rank > 4) throw SystemError("a tensor's rank is not 1..4");
        NamedTensor tensor;
        tensor.name.assign(row, strnlen(row, name_bytes));
        tensor.shape.assign(numbers.shape.begin(), numbers.shape.begin() + numbers.rank);
        tensor.offset = numbers.offset;
        tensor.initial_norm = numbers.initial_norm;
        tensor.update_norm = numbers.update_norm;
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

/// Calls visit(name, member) for every plain attribute of the root: the single list of what is
/// stored.
template <class State, class Visit>
void visit_attributes(State& state, Visit&& visit) {
    visit("step", state.step);
    visit("epoch", state.epoch);
    visit("data_step", state.data_step);
    visit("seed", state.seed);
    visit("nonfinite_steps", state.nonfinite_steps);
    visit("nonfinite_in_a_row", state.nonfinite_in_a_row);
    visit("metrics_bytes", state.metrics_bytes);
    visit("metrics_sha256", state.metrics_sha256);
    visit("loss", state.loss);
    visit("created", state.created);
}

template <class Value>
void write_map(hid_t parent, const std::string& name, const std::map<std::string, Value>& values) {
    const h5::Handle group = h5::create_group(parent, name);
    for (const auto& [key, value] : values) h5::write_attribute(group.get(), key, value);
}

template <class Value>
void read_map(hid_t parent, const std::string& name, std::map<std::string, Value>& values) {
    const h5::Handle group = h5::open_group(parent, name);
    for (const std::string& key : h5::attribute_names(group.get(), kMaxMembers)) {
        h5::read_attribute(group.get(), key, values[key]);
    }
}

/// Of a vector as it is stored.
std::string digest_of(std::span<const float> values) {
    return sha256_hex(std::as_bytes(values));
}

using TakeVector = std::function<void(const std::string& name, std::vector<float> values)>;

/// Gives the vectors to `take` one by one, the adapter first and without a name.
CheckpointFacts decode(std::span<const std::byte> image, const TakeVector& take) {
    const h5::Handle file = h5::open_image(image);
    std::string format;
    std::int64_t version = 0;
    h5::read_attribute(file.get(), "format", format);
    h5::read_attribute(file.get(), "version", version);
    if (format != kFormat || version != kVersion) {
        throw SystemError(fmt::format("format \"{}\" version {}, expected \"{}\" version {}",
                                      format, version, kFormat, kVersion));
    }
    CheckpointFacts facts;
    visit_attributes(
        facts, [&](const char* name, auto& value) { h5::read_attribute(file.get(), name, value); });
    facts.run_yaml = h5::read_text(file.get(), "run.yaml");
    read_map(file.get(), "identity", facts.identity);
    read_map(file.get(), "counters", facts.counters);

    const h5::Handle adapter = h5::open_group(file.get(), "adapter");
    facts.adapter_config_json = h5::read_text(adapter.get(), "adapter_config.json");
    facts.tensors = read_index(adapter.get());
    std::vector<float> values = h5::read_floats(adapter.get(), "values");
    const std::size_t count = values.size();
    std::string digest;
    h5::read_attribute(adapter.get(), "sha256", digest);
    if (digest != digest_of(values)) throw SystemError("the adapter's digest differs");
    const std::string problem = problem_of(facts, static_cast<std::int64_t>(count));
    if (!problem.empty()) throw SystemError(problem);
    take("", std::move(values));

    const h5::Handle optimizer = h5::open_group(file.get(), "optimizer");
    h5::read_attribute(optimizer.get(), "name", facts.optimizer_name);
    for (const std::string& name : h5::member_names(optimizer.get(), kMaxMembers)) {
        values = h5::read_floats(optimizer.get(), name);
        if (values.size() != count) {
            throw SystemError(fmt::format("optimizer vector {} has {} values, the adapter {}", name,
                                          values.size(), count));
        }
        take(name, std::move(values));
    }
    return facts;
}

CheckpointFacts decode_or_refuse(std::span<const std::byte> image, const TakeVector& take) {
    try {
        return decode(image, take);
    } catch (const SystemError& error) {
        throw UserError(fmt::format("not a readable qshard checkpoint: {}", error.what()));
    }
}

void write_and_free(hid_t group, const std::string& name, std::vector<float>& values) {
    h5::write_floats(group, name, values);
    std::vector<float>().swap(values);
}

}  // namespace

FileImage encode_checkpoint(CheckpointState state) {
    const std::string problem = problem_of(state);
    if (!problem.empty()) throw BugError("checkpoint state is not consistent: " + problem);
    h5::ImageWriter image;
    const hid_t file = image.file();
    h5::write_attribute(file, "format", std::string(kFormat));
    h5::write_attribute(file, "version", kVersion);
    visit_attributes(state, [&](const char* name, const auto& value) {
        h5::write_attribute(file, name, value);
    });
    h5::write_text(file, "run.yaml", state.run_yaml);
    write_map(file, "identity", state.identity);
    write_map(file, "counters", state.counters);
    {
        const h5::Handle adapter = h5::create_group(file, "adapter");
        h5::write_attribute(adapter.get(), "sha256", digest_of(state.adapter));
        h5::write_text(adapter.get(), "adapter_config.json", state.adapter_config_json);
        write_index(adapter.get(), state.tensors);
        write_and_free(adapter.get(), "values", state.adapter);
        const h5::Handle optimizer = h5::create_group(file, "optimizer");
        h5::write_attribute(optimizer.get(), "name", state.optimizer_name);
        for (auto& [name, values] : state.optimizer) write_and_free(optimizer.get(), name, values);
    }
    return image.take();
}

CheckpointState decode_checkpoint(std::span<const std::byte> image) {
    CheckpointState state;
    static_cast<CheckpointFacts&>(state) =
        decode_or_refuse(image, [&](const std::string& name, std::vector<float> values) {
            (name.empty() ? state.adapter : state.optimizer[name]) = std::move(values);
        });
    return state;
}

VectorDigests digests_of(const CheckpointState& state) {
    VectorDigests digests{digest_of(state.adapter), {}};
    for (const auto& [name, values] : state.optimizer) digests.optimizer[name] = digest_of(values);
    return digests;
}

CheckpointFacts decode_facts(std::span<const std::byte> image, VectorDigests& digests) {
    return decode_or_refuse(image, [&](const std::string& name, std::vector<float> values) {
        (name.empty() ? digests.adapter : digests.optimizer[name]) = digest_of(values);
    });
}

}  // namespace qshard
