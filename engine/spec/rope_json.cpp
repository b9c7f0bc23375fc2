#include "spec/rope_json.h"

#include <array>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <cmath>

#include "base/error.h"

namespace qshard {
namespace {

constexpr std::int64_t kMaxPositions = std::int64_t{1} << 30;

RopeKind parse_kind(JsonKeys& keys) {
    const std::optional<std::string> old_name = keys.text("type");
    const std::string name = keys.text("rope_type").value_or(old_name.value_or("default"));
    constexpr std::array<std::pair<std::string_view, RopeKind>, 7> kKinds = {
        {{"default", RopeKind::kDefault},
         {"linear", RopeKind::kLinear},
         {"dynamic", RopeKind::kDynamic},
         {"llama3", RopeKind::kLlama3},
         {"yarn", RopeKind::kYarn},
         {"longrope", RopeKind::kLongrope},
         {"su", RopeKind::kLongrope}}};
    for (const auto& [known, kind] : kKinds) {
        if (name == known) return kind;
    }
    keys.fail("rope_type", "default, linear, dynamic, llama3, yarn or longrope");
}

std::vector<double> parse_factors(JsonKeys& keys, std::string_view key, std::int64_t count) {
    std::vector<double> factors;
    const boost::json::array* list = keys.array(key);
    const std::string expected = fmt::format("a list of {} positive numbers", count);
    if (list == nullptr || static_cast<std::int64_t>(list->size()) != count)
        keys.fail(key, expected);
    for (const boost::json::value& item : *list) {
        if (!item.is_number()) keys.fail(key, expected);
        factors.push_back(item.to_number<double>());
        if (!(factors.back() > 0) || !std::isfinite(factors.back())) keys.fail(key, expected);
    }
    return factors;
}

double positive(JsonKeys& keys, std::string_view key, double absent) {
    const double value = keys.number(key).value_or(absent);
    if (!(value > 0)) keys.fail(key, "a positive number");
    return value;
}

/// What one rope takes from outside its own object.
struct RopeContext {
    double theta;
    double partial;
    std::int64_t head_width, max_positions;
    std::optional<std::int64_t> original_max_positions;
};

RopeConfig parse_rope(JsonKeys& keys, const RopeContext& context) {
    RopeConfig rope;
    rope.kind = parse_kind(keys);
    // Early Phi-3 files call it so.
    if (rope.kind == RopeKind::kYarn && keys.find("short_factor") != nullptr)
        rope.kind = RopeKind::kLongrope;
    rope.theta = positive(keys, "rope_theta", context.theta);
    const double partial = positive(keys, "partial_rotary_factor", context.partial);
    rope.rotary_width =
        static_cast<std::int64_t>(static_cast<double>(context.head_width) * partial);
    if (partial > 1 || rope.rotary_width < 2 || rope.rotary_width % 2 != 0) {
        keys.fail("partial_rotary_factor", "at most 1 and an even number of the head's dimensions");
    }
    const std::optional<std::int64_t> inner =
        keys.integer("original_max_position_embeddings", 1, kMaxPositions);
    rope.original_max_positions =
        context.original_max_positions.value_or(inner.value_or(context.max_positions));
    if (rope.kind == RopeKind::kDynamic) rope.original_max_positions = context.max_positions;
    const bool has_factor = keys.find("factor") != nullptr;
    const double ratio = static_cast<double>(context.max_positions) /
                         static_cast<double>(rope.original_max_positions);
    rope.factor = positive(keys, "factor", 1.0);
    const bool by_ratio = rope.kind == RopeKind::kLongrope || rope.kind == RopeKind::kYarn;
    if (by_ratio && !has_factor) rope.factor = ratio;
    if (!has_factor && (rope.kind == RopeKind::kLinear || rope.kind == RopeKind::kDynamic ||
                        rope.kind == RopeKind::kLlama3)) {
        keys.fail("factor", "given for this rope_type");
    }
    rope.low_freq_factor = positive(keys, "low_freq_factor", rope.low_freq_factor);
    rope.high_freq_factor = positive(keys, "high_freq_factor", rope.high_freq_factor);
    rope.beta_fast = positive(keys, "beta_fast", rope.beta_fast);
    rope.beta_slow = positive(keys, "beta_slow", rope.beta_slow);
    rope.attention_factor = keys.number("attention_factor");
    rope.mscale = keys.number("mscale");
    rope.mscale_all_dim = keys.number("mscale_all_dim");
    rope.truncate = keys.boolean("truncate").value_or(true);
    if (rope.kind == RopeKind::kLongrope) {
        rope.short_factor = parse_factors(keys, "short_factor", rope.rotary_width / 2);
        rope.long_factor = parse_factors(keys, "long_factor", rope.rotary_width / 2);
    }
    constexpr std::array<std::string_view, 1> kHarmless = {"finetuned"};
    keys.ignore(kHarmless);
    keys.refuse_others("rotary positions with it are not supported");
    return rope;
}

RopeConfig parse_rope_object(JsonKeys& parent, std::string_view key,
                             const boost::json::object* object, const RopeContext& context) {
    const boost::json::object nothing;
    JsonKeys keys(object == nullptr ? nothing : *object,
                  fmt::format("{}: \"{}\"", parent.origin(), key));
    return parse_rope(keys, context);
}

}  // namespace

void parse_ropes(JsonKeys& keys, const Family& family, ModelConfig& config) {
    RopeContext context{.theta = positive(keys, "rope_theta", family.theta),
                        .partial = positive(keys, "partial_rotary_factor", 1.0),
                        .head_width = config.head_width,
                        .max_positions = config.max_positions,
                        .original_max_positions =
                            keys.integer("original_max_position_embeddings", 1, kMaxPositions)};
    if (!context.original_max_positions && family.defaults.original_max_positions > 0)
        context.original_max_positions = family.defaults.original_max_positions;
    RopeContext local = context;
    local.theta = positive(keys, "rope_local_base_freq",
                           family.local_theta > 0 ? family.local_theta : context.theta);
    const boost::json::object* scaling = keys.object("rope_scaling");
    const boost::json::object* parameters = keys.object("rope_parameters");
    const bool nested = parameters != nullptr && parameters->contains("full_attention");
    if (!nested) {
        // Transformers 5 keeps the old key beside the new one when it re-saves old files; the new
        // one rules.
        config.ropes.push_back(
            parse_rope_object(keys, parameters != nullptr ? "rope_parameters" : "rope_scaling",
                              parameters != nullptr ? parameters : scaling, context));
        if (family.local_theta > 0)
            config.ropes.push_back(parse_rope_object(keys, "rope_parameters", nullptr, local));
        return;
    }
    if (family.local_theta <= 0)
        keys.fail("rope_parameters", "one set of parameters for all layers");
    JsonKeys types(*parameters, keys.origin() + ": \"rope_parameters\"");
    config.ropes.push_back(
        parse_rope_object(types, "full_attention", types.object("full_attention"), context));
    config.ropes.push_back(
        parse_rope_object(types, "sliding_attention", types.object("sliding_attention"), local));
    types.refuse_others("rotary positions with it are not supported");
}

}  // namespace qshard
