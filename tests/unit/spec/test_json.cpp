#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "base/error.h"
#include "spec/json.h"
#include "spec/json_keys.h"

using namespace qshard;

TEST(Json, SoundDocumentsComeBackUnchanged) {
    const std::string text =
        R"({"a":[1,-2,3.5,true,false,null,"x\ny\u00e9"],"b":{},"\u0041":18446744073709551615,"long key )" +
        std::string(5000, 'k') + R"(":"v"})";
    const boost::json::value value = parse_strict_json(text, "test");
    EXPECT_EQ(value.at("a").at(6), "x\ny\u00e9");
    EXPECT_EQ(value.at("A").get_uint64(), 18446744073709551615ull);
    EXPECT_EQ(parse_strict_json(boost::json::serialize(value), "test"), value);
    EXPECT_TRUE(parse_strict_json(" \n{ } \n", "test").is_object());
}

TEST(Json, BrokenDocumentsAreRefused) {
    for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "nul", "01", "1.",
                             "\"\x01\"", "\"\\x\"", "[1] x", "{}{}", "// c\n1", "{\"a\":1,\"a\":2}",
                             "{\"a\":{\"b\":0,\"\\u0062\":0}}", "NaN", "\"\xff\"", "1e999999999"}) {
        EXPECT_THROW(parse_strict_json(text, "test"), UserError) << text;
    }
    EXPECT_THROW(parse_strict_json(std::string(33, '[') + std::string(33, ']'), "test"), UserError);
    EXPECT_THROW(parse_strict_json("[1,2,3]", "test", {.bytes = 6}), UserError);
    EXPECT_NO_THROW(parse_strict_json(std::string(32, '[') + std::string(32, ']'), "test"));
}

TEST(Json, NonFiniteNumbersBecomeTextWhereAllowed) {
    const boost::json::value value = parse_strict_json(
        R"({"a":[NaN,-Infinity,Infinity],"b":"NaN \" Infinity"})", "test", {.non_finite = true});
    EXPECT_EQ(boost::json::serialize(value.at("a")), R"(["NaN","-Infinity","Infinity"])");
    EXPECT_EQ(value.at("b"), "NaN \" Infinity");
}

TEST(JsonKeys, ChecksTypesAndRanges) {
    const boost::json::value value = parse_strict_json(
        R"({"i":7,"whole":4.0,"half":4.5,"big":18446744073709551615,"t":"x","b":true,"n":null,"l":[],"o":{}})",
        "test");
    JsonKeys keys(value.get_object(), "test");
    EXPECT_EQ(keys.integer("i", 0, 10), 7);
    EXPECT_EQ(keys.integer("whole", 0, 10), 4);
    EXPECT_EQ(keys.integer("n", 0, 10), std::nullopt);
    EXPECT_EQ(keys.integer("absent", 0, 10), std::nullopt);
    EXPECT_THROW(keys.integer("i", 8, 10), UserError);
    EXPECT_THROW(keys.integer("half", 0, 10), UserError);
    EXPECT_THROW(keys.integer("big", 0, 10), UserError);
    EXPECT_THROW(keys.integer("b", 0, 10), UserError);
    EXPECT_EQ(keys.number("half"), 4.5);
    EXPECT_THROW(keys.number("t"), UserError);
    EXPECT_EQ(keys.boolean("b"), true);
    EXPECT_THROW(keys.boolean("i"), UserError);
    EXPECT_EQ(keys.text("t"), "x");
    EXPECT_THROW(keys.text("i"), UserError);
    EXPECT_NE(keys.array("l"), nullptr);
    EXPECT_THROW(keys.array("o"), UserError);
    EXPECT_NO_THROW(keys.refuse_others("because")) << "all were asked for";
    JsonKeys fresh(value.get_object(), "test");
    EXPECT_THROW(fresh.refuse_others("because"), UserError);
}
