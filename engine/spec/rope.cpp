#include "spec/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace qshard {
namespace {

using Frequencies = std::vector<double>;

Frequencies plain_frequencies(const RopeConfig& config, double theta) {
    Frequencies inverse(static_cast<std::size_t>(config.rotary_width / 2));
    for (std::size_t j = 0; j < inverse.size(); ++j) {
        // The exponent is an fp32 quotient in the reference.
        const float exponent = static_cast<float>(2 * j) / static_cast<float>(config.rotary_width);
        inverse[j] = 1.0 / std::pow(theta, static_cast<double>(exponent));
    }
    return inverse;
}

Frequencies dynamic_frequencies(const RopeConfig& config, std::int64_t tokens) {
    const auto width = static_cast<double>(config.rotary_width);
    const auto original = static_cast<double>(config.original_max_positions);
    const double length = std::max(static_cast<double>(tokens), original);
    const double stretch = config.factor * length / original - (config.factor - 1.0);
    return plain_frequencies(config, config.theta * std::pow(stretch, width / (width - 2.0)));
}

Frequencies llama3_frequencies(const RopeConfig& config) {
    const auto original = static_cast<double>(config.original_max_positions);
    const double low_wavelength = original / config.low_freq_factor;
    const double high_wavelength = original / config.high_freq_factor;
    Frequencies inverse = plain_frequencies(config, config.theta);
    for (double& frequency : inverse) {
        const double wavelength = 2.0 * std::numbers::pi / frequency;
        if (wavelength < high_wavelength) continue;
        if (wavelength > low_wavelength) {
            frequency /= config.factor;
        } else {
            const double smooth = (original / wavelength - config.low_freq_factor) /
                                  (config.high_freq_factor - config.low_freq_factor);
            frequency *= (1.0 - smooth) / config.factor + smooth;
        }
    }
    return inverse;
}

Frequencies yarn_frequencies(const RopeConfig& config) {
    const auto width = static_cast<double>(config.rotary_width);
    const auto dimension_of = [&](double rotations) {
        return width *
               std::log(static_cast<double>(config.original_max_positions) /
                        (rotations * 2.0 * std::numbers::pi)) /
               (2.0 * std::log(config.theta));
    };
    double low = dimension_of(config.beta_fast), high = dimension_of(config.beta_slow);
    if (config.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, width - 1.0);
    if (low == high) high += 0.001;
    Frequencies inverse = plain_frequencies(config, config.theta);
    for (std::size_t j = 0; j < inverse.size(); ++j) {
        const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
        inverse[j] = inverse[j] / config.factor * ramp + inverse[j] * (1.0 - ramp);
    }
    return inverse;
}

Frequencies longrope_frequencies(const RopeConfig& config, std::int64_t length) {
    const std::vector<double>& divisors =
        is_stretched(config, length) ? config.long_factor : config.short_factor;
    Frequencies inverse = plain_frequencies(config, config.theta);
    if (divisors.size() != inverse.size()) {
        throw UserError(fmt::format("rotary positions \"longrope\": expected {} factors, found {}",
                                    inverse.size(), divisors.size()));
    }
    for (std::size_t j = 0; j < inverse.size(); ++j) inverse[j] /= divisors[j];
    return inverse;
}

double attention_factor_of(const RopeConfig& config) {
    if (config.attention_factor) return *config.attention_factor;
    const auto mscale = [&](double scale) {
        return config.factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(config.factor) + 1.0;
    };
    if (config.kind == RopeKind::kYarn) {
        const double numerator = config.mscale.value_or(0),
                     denominator = config.mscale_all_dim.value_or(0);
        return numerator != 0 && denominator != 0 ? mscale(numerator) / mscale(denominator)
                                                  : mscale(1.0);
    }
    if (config.kind == RopeKind::kLongrope && config.factor > 1.0) {
        return std::sqrt(1.0 + std::log(config.factor) /
                                   std::log(static_cast<double>(config.original_max_positions)));
    }
    return 1.0;
}

void validate(const RopeConfig& config) {
    const bool scaled = config.kind != RopeKind::kDefault && config.kind != RopeKind::kNone;
    const bool needs_original = scaled && config.kind != RopeKind::kLinear;
    const bool sound =
        config.rotary_width > 0 && config.rotary_width % 2 == 0 && config.theta > 1.0 &&
        std::isfinite(config.theta) && config.factor > 0 && std::isfinite(config.factor) &&
        (!needs_original || config.original_max_positions > 1) &&
        (config.kind != RopeKind::kDynamic || (config.rotary_width > 2 && config.factor >= 1.0)) &&
        (config.kind != RopeKind::kLlama3 ||
         (config.low_freq_factor > 0 && config.high_freq_factor > config.low_freq_factor)) &&
        (config.kind != RopeKind::kYarn || (config.beta_fast > 0 && config.beta_slow > 0));
    if (!sound) {
        throw UserError(fmt::format(
            "rotary positions: width {}, theta {}, factor {}, original length {} make no sense "
            "together",
            config.rotary_width, config.theta, config.factor, config.original_max_positions));
    }
}

}  // namespace

RopeTable make_rope(const RopeConfig& config, std::int64_t length) {
    if (config.kind == RopeKind::kNone) return {};
    validate(config);
    Frequencies inverse;
    switch (config.kind) {
        case RopeKind::kNone:
        case RopeKind::kDefault:
            inverse = plain_frequencies(config, config.theta);
            break;
        case RopeKind::kLinear:
            inverse = plain_frequencies(config, config.theta);
            for (double& frequency : inverse) frequency /= config.factor;
            break;
        case RopeKind::kDynamic:
            inverse = dynamic_frequencies(config, length);
            break;
        case RopeKind::kLlama3:
            inverse = llama3_frequencies(config);
            break;
        case RopeKind::kYarn:
            inverse = yarn_frequencies(config);
            break;
        case RopeKind::kLongrope:
            inverse = longrope_frequencies(config, length);
            break;
    }
    if (!config.frequency_divisors.empty()) {
        if (config.frequency_divisors.size() != inverse.size()) {
            throw UserError(
                fmt::format("rotary positions: expected {} frequency divisors, found {}",
                            inverse.size(), config.frequency_divisors.size()));
        }
        for (std::size_t j = 0; j < inverse.size(); ++j) {
            inverse[j] /= static_cast<double>(config.frequency_divisors[j]);
        }
    }
    RopeTable table;
    table.attention_factor = static_cast<float>(attention_factor_of(config));
    for (double frequency : inverse) {
        if (!std::isfinite(frequency))
            throw UserError("rotary positions: a frequency is not finite");
        table.inverse_frequencies.push_back(static_cast<float>(frequency));
    }
    return table;
}

bool is_stretched(const RopeConfig& config, std::int64_t length) {
    const bool follows = config.kind == RopeKind::kDynamic || config.kind == RopeKind::kLongrope;
    return follows && length > config.original_max_positions;
}

void RopeTable::fill(std::int64_t first, std::span<float> cos, std::span<float> sin) const {
    check(cos.size() == sin.size() &&
              (inverse_frequencies.empty() || cos.size() % inverse_frequencies.size() == 0),
          "cosine and sine tables are whole rows");
    const std::size_t half = inverse_frequencies.size();
    for (std::size_t i = 0; i < cos.size(); ++i) {
        const auto position = static_cast<float>(first + static_cast<std::int64_t>(i / half));
        const float angle = position * inverse_frequencies[i % half];
        cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * attention_factor;
        sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * attention_factor;
    }
}

}  // namespace qshard
