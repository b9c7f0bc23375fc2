#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "spec/config_json.h"
#include "spec/json.h"
#include "spec/rope.h"

using namespace qshard;

namespace {

std::vector<float> floats(const boost::json::value& list) {
    std::vector<float> values;
    for (const boost::json::value& item : list.get_array())
        values.push_back(item.to_number<float>());
    return values;
}

}  // namespace

TEST(Rope, FrequenciesOfEveryKindEqualThoseOfTransformers) {
    std::ifstream file(QSHARD_TEST_DATA "/golden/rope/rope.json");
    std::stringstream text;
    text << file.rdbuf();
    const boost::json::value golden = parse_strict_json(text.str(), "rope.json");
    ASSERT_EQ(golden.at("cases").get_array().size(), 11u);
    for (const boost::json::value& c : golden.at("cases").get_array()) {
        const std::string name(c.at("name").get_string());
        const ModelConfig config = model_config_from_json(
            fmt::format(
                R"({{"model_type":"llama","hidden_size":64,"intermediate_size":64,"num_hidden_layers":1,)"
                R"("num_attention_heads":2,"head_dim":32,"vocab_size":16,"max_position_embeddings":{},)"
                R"("rope_parameters":{}}})",
                c.at("max_position_embeddings").get_int64(),
                boost::json::serialize(c.at("rope_parameters"))),
            name);
        const RopeTable table = make_rope(config.ropes.at(0), c.at("positions").get_int64());
        const std::vector<float> wanted = floats(c.at("inverse_frequencies"));
        ASSERT_EQ(table.inverse_frequencies.size(), wanted.size());
        for (std::size_t j = 0; j < wanted.size(); ++j) {
            // The reference works in fp32: a power, two divisions and, for yarn, a blend by a ramp
            // and one minus it: at most 8 roundings.
            EXPECT_NEAR(table.inverse_frequencies[j], wanted[j], 8 * 6e-8 * std::abs(wanted[j]))
                << name << " " << j;
        }
        EXPECT_FLOAT_EQ(table.attention_factor, c.at("attention_factor").to_number<float>())
            << name;

        std::vector<float> cos(wanted.size()), sin(wanted.size());
        table.fill(c.at("position").get_int64(), cos, sin);
        const std::vector<float> wanted_cos = floats(c.at("cos")), wanted_sin = floats(c.at("sin"));
        for (std::size_t j = 0; j < wanted.size(); ++j) {
            // The frequency's last bits are multiplied by the position, 1000.
            const double tolerance = 2e-7 + 1000.0 * 8 * 6e-8 * std::abs(wanted[j]) * 1.3;
            EXPECT_NEAR(cos[j], wanted_cos[j], tolerance) << name << " " << j;
            EXPECT_NEAR(sin[j], wanted_sin[j], tolerance) << name << " " << j;
        }
    }
}

TEST(Rope, TablesAreRowsOfPositions) {
    RopeConfig config;
    config.rotary_width = 8;
    const RopeTable table = make_rope(config, 100);
    EXPECT_EQ(table.half_width(), 4);
    std::vector<float> cos(5 * 4), sin(5 * 4), one_cos(4), one_sin(4);
    table.fill(0, cos, sin);
    table.fill(3, one_cos, one_sin);
    EXPECT_TRUE(std::equal(one_cos.begin(), one_cos.end(), cos.begin() + 12));
    EXPECT_TRUE(std::equal(one_sin.begin(), one_sin.end(), sin.begin() + 12));
    EXPECT_EQ(cos[0], 1.0f);
    EXPECT_FLOAT_EQ(cos[4], std::cos(1.0f));
    EXPECT_THROW(table.fill(0, one_cos, sin), BugError);
}

TEST(Rope, DivisorsReplaceTheFormulaAndNonsenseIsRefused) {
    RopeConfig config;
    config.rotary_width = 4;
    config.frequency_divisors = {1.0f, 8.0f};
    const RopeTable table = make_rope(config, 10);
    EXPECT_EQ(table.inverse_frequencies[0], 1.0f);
    EXPECT_FLOAT_EQ(table.inverse_frequencies[1], 0.01f / 8.0f);
    config.frequency_divisors = {1.0f};
    EXPECT_THROW(make_rope(config, 10), UserError);
    config.frequency_divisors = {1.0f, 0.0f};
    EXPECT_THROW(make_rope(config, 10), UserError);
    config.frequency_divisors.clear();
    config.rotary_width = 3;
    EXPECT_THROW(make_rope(config, 10), UserError);
    config.rotary_width = 4;
    config.kind = RopeKind::kYarn;
    EXPECT_THROW(make_rope(config, 10), UserError) << "no original length";
}

TEST(Rope, LongropeAndDynamicFollowTheLengthBeyondTheOriginalOneAndNoOtherKindDoes) {
    RopeConfig config;
    config.rotary_width = 8;
    config.factor = 4.0;
    config.original_max_positions = 16;
    config.short_factor = {1, 1, 1, 1};
    config.long_factor = {2, 3, 4, 5};
    const auto frequencies = [&](std::int64_t length) {
        return make_rope(config, length).inverse_frequencies;
    };
    for (const RopeKind kind : {RopeKind::kDefault, RopeKind::kLinear, RopeKind::kLlama3,
                                RopeKind::kYarn, RopeKind::kDynamic, RopeKind::kLongrope}) {
        config.kind = kind;
        const bool follows = kind == RopeKind::kDynamic || kind == RopeKind::kLongrope;
        EXPECT_FALSE(is_stretched(config, 16));
        EXPECT_EQ(is_stretched(config, 17), follows);
        EXPECT_EQ(frequencies(1), frequencies(16));
        EXPECT_EQ(frequencies(17) != frequencies(16), follows);
        EXPECT_EQ(frequencies(18) != frequencies(17), kind == RopeKind::kDynamic);
        EXPECT_EQ(make_rope(config, 1).attention_factor, make_rope(config, 17).attention_factor);
    }
}
