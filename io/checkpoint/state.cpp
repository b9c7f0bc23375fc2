#include "io/checkpoint/state.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <ctime>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/hash.h"
#include "spec/adapter_order.h"

namespace qshard {

static_assert(std::endian::native == std::endian::little, "files hold little-endian values");

std::int64_t NamedTensor::count() const {
    std::int64_t product = 1;
    for (std::int64_t extent : shape) product *= extent;
    return product;
}

std::string adapter_sha256(std::span<const float> adapter) {
    return sha256_hex(std::as_bytes(adapter));
}

std::string adapter_sha256(const CheckpointState& state) {
    std::vector<std::string> names;
    for (const NamedTensor& tensor : state.tensors) names.push_back(tensor.name);
    const std::vector<std::size_t> order = layout_order(names);
    if (std::ranges::is_sorted(order)) return adapter_sha256(state.adapter);
    Sha256 digest;
    const std::span<const float> values(state.adapter);
    for (const std::size_t i : order) {
        const NamedTensor& tensor = state.tensors[i];
        digest.update(std::as_bytes(values.subspan(static_cast<std::size_t>(tensor.offset),
                                                   static_cast<std::size_t>(tensor.count()))));
    }
    return digest.hex();
}

void fill_update_norms(CheckpointState& state, std::span<const float> initial) {
    check(initial.size() == state.adapter.size(), "the initial adapter is as long as the adapter");
    for (NamedTensor& tensor : state.tensors) {
        double before = 0, change = 0;
        for (std::int64_t i = tensor.offset; i < tensor.offset + tensor.count(); ++i) {
            const double first = initial[static_cast<std::size_t>(i)];
            const double now = state.adapter[static_cast<std::size_t>(i)];
            before += first * first;
            change += (now - first) * (now - first);
        }
        tensor.initial_norm = std::sqrt(before);
        tensor.update_norm = std::sqrt(change);
    }
}

std::string problem_of(const CheckpointFacts& facts, std::int64_t elements) {
    if (facts.step < 0 || facts.data_step < 0 || facts.metrics_bytes < 0 ||
        facts.nonfinite_steps < 0 || facts.nonfinite_in_a_row < 0) {
        return "a counter is negative";
    }
    if (facts.tensors.empty()) return "there are no tensors";
    std::int64_t next = 0;
    std::set<std::string> names;
    for (const NamedTensor& tensor : facts.tensors) {
        if (tensor.name.empty() || tensor.name.size() > 512 || tensor.name.back() == '\0' ||
            !names.insert(tensor.name).second) {
            return fmt::format("tensor name \"{}\" is empty, too long or repeated", tensor.name);
        }
        if (tensor.shape.empty() || tensor.shape.size() > 4) {
            return fmt::format("tensor {} has {} dimensions", tensor.name, tensor.shape.size());
        }
        std::int64_t count = 1;
        for (std::int64_t extent : tensor.shape) {
            if (extent < 1 || extent > std::numeric_limits<std::int64_t>::max() / count) {
                return fmt::format("tensor {} has an impossible shape", tensor.name);
            }
            count *= extent;
        }
        if (tensor.offset != next || count > elements - next) {
            return fmt::format("tensor {} does not follow its predecessor", tensor.name);
        }
        next += count;
    }
    if (next != elements) return "the tensors do not cover the adapter";
    return "";
}

std::string problem_of(const CheckpointState& state) {
    for (const auto& [name, values] : state.optimizer) {
        if (values.size() != state.adapter.size())
            return fmt::format("optimizer vector {} has another length than the adapter", name);
    }
    return problem_of(state, std::ssize(state.adapter));
}

std::string utc_now() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

}  // namespace qshard
