#include "spec/adapter_order.h"

#include <algorithm>
#include <charconv>
#include <compare>
#include <limits>
#include <map>
#include <numeric>
#include <string_view>
#include <utility>

#include "spec/adapter.h"
#include "spec/families.h"

namespace qshard {
namespace {

constexpr std::string_view kPrefix = "base_model.model.", kBaseLayer = ".base_layer";
constexpr std::string_view kLora = ".lora_";
constexpr int kUnknown = std::numeric_limits<int>::max();

// As layer_weights() lists them, linears first.
constexpr Role kLayerRoles[] = {
    Role::kQkv,       Role::kQ,         Role::kK,        Role::kV,      Role::kO,
    Role::kGateUp,    Role::kGate,      Role::kUp,       Role::kDown,   Role::kRouter,
    Role::kNorm1Bias, Role::kNorm2Bias, Role::kQkvBias,  Role::kQBias,  Role::kKBias,
    Role::kVBias,     Role::kOBias,     Role::kGateBias, Role::kUpBias, Role::kDownBias,
};
// Of a mixture these stand where others have gate, up and down; only adapters know them.
constexpr std::pair<std::string_view, Role> kExperts[] = {
    {"mlp.experts.gate_up_proj.weight", Role::kGateUp},
    {"mlp.experts.down_proj.weight", Role::kDown}};

/// Position within a unit by the name of the weight: whole outside the layers, behind the layer's
/// number inside them.
using Ranks = std::map<std::string, int, std::less<>>;

Ranks ranks_in_layers() {
    Ranks ranks;
    for (const Family& family : families()) {
        const std::size_t skipped = family.layer_prefix.size() + 2;  // "0."
        for (int i = 0; i < static_cast<int>(std::size(kLayerRoles)); ++i)
            ranks.emplace(hugging_face_name(family, kLayerRoles[i], 0).substr(skipped), i);
    }
    for (const auto& [name, role] : kExperts)
        ranks.emplace(name, std::ranges::find(kLayerRoles, role) - std::begin(kLayerRoles));
    return ranks;
}

Ranks ranks_outside() {
    Ranks ranks;
    for (const Family& family : families()) {
        int rank = 0;
        for (const Role role : {Role::kEmbed, Role::kHead, Role::kFinalNormBias})
            ranks.emplace(hugging_face_name(family, role, 0), rank++);
    }
    return ranks;
}

int rank_of(const Ranks& ranks, std::string_view weight) {
    const auto found = ranks.find(weight);
    return found == ranks.end() ? kUnknown : found->second;
}

/// What the order goes by, first things first.
struct Place {
    std::int64_t range = 0;  ///< 0: embedding, 1 + n: layer n, then what is behind the layers
    bool whole = false;      ///< a trained weight; behind the pairs of its range
    int rank = kUnknown;
    std::string name;  ///< of modules that are not known, and A, B, magnitudes of one module

    auto operator<=>(const Place&) const = default;
};

/// Number of the layer and the place of what follows it; -1 outside the layers.
std::int64_t layer_of(std::string_view path, std::size_t& behind) {
    for (const std::string_view list : {".layers.", ".h."}) {
        const std::size_t at = path.find(list);
        if (at == std::string_view::npos) continue;
        const char* begin = path.data() + at + list.size();
        const char* end = path.data() + path.size();
        std::int64_t layer = 0;
        const auto [stop, error] = std::from_chars(begin, end, layer);
        if (error != std::errc{} || stop == end || *stop != '.' || layer < 0) continue;
        behind = static_cast<std::size_t>(stop - path.data()) + 1;
        return layer;
    }
    return -1;
}

Place place_of(const std::string& tensor) {
    static const Ranks inside = ranks_in_layers(), outside = ranks_outside();
    Place place;
    place.name = unwrapped_name(tensor);
    std::string weight = place.name;
    if (weight.starts_with(kPrefix)) weight.erase(0, kPrefix.size());
    const std::size_t lora = weight.rfind(kLora);
    place.whole = lora == std::string::npos;
    if (!place.whole) weight = weight.substr(0, lora) + ".weight";
    if (const std::size_t at = weight.rfind(kBaseLayer); at != std::string::npos)
        weight.erase(at, kBaseLayer.size());  // of a bias beside LoRA
    std::size_t behind = 0;
    const std::int64_t layer = layer_of(weight, behind);
    if (layer >= 0) {
        place.range = 1 + layer;
        place.rank = rank_of(inside, std::string_view(weight).substr(behind));
    } else {
        place.rank = rank_of(outside, weight);
        place.range = place.rank == 0 ? 0 : std::numeric_limits<std::int64_t>::max();
    }
    return place;
}

}  // namespace

std::vector<std::size_t> layout_order(std::span<const std::string> names) {
    std::vector<Place> places;
    for (const std::string& name : names) places.push_back(place_of(name));
    std::vector<std::size_t> order(names.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order,
                             [&](std::size_t a, std::size_t b) { return places[a] < places[b]; });
    return order;
}

}  // namespace qshard
