#pragma once

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

/// Reading of the files that tests/golden/tokenizer/make.py wrote.
namespace golden {

inline std::string path(const std::string& name) {
    return std::string(QSHARD_TEST_DATA "/golden/tokenizer/") + name;
}

inline std::string text(const std::string& name) {
    std::ifstream file(path(name), std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path(name));
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

inline boost::json::value json(const std::string& name) {
    return boost::json::parse(text(name));
}

inline std::vector<std::int32_t> ids(const boost::json::value& value) {
    return boost::json::value_to<std::vector<std::int32_t>>(value);
}

inline std::string string(const boost::json::value& value) {
    return boost::json::value_to<std::string>(value);
}

}  // namespace golden
