#pragma once

#include <boost/json.hpp>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/formats/safetensors.h"

/// Reading what the oracles left behind.
namespace qshard::test {

inline std::string read_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream content;
    content << file.rdbuf();
    check(static_cast<bool>(file), "the golden file is there");
    return std::move(content).str();
}

inline boost::json::value read_json(const std::string& path) {
    return boost::json::parse(read_text(path));
}

/// All fp32 tensors of a safetensors file.
inline std::map<std::string, std::vector<float>> read_floats(const std::string& path) {
    const SafetensorsFile file{InputFile(path)};
    std::map<std::string, std::vector<float>> tensors;
    for (const auto& [name, tensor] : file.tensors()) {
        std::vector<float>& values = tensors[name];
        values.resize(static_cast<std::size_t>(tensor.count()));
        file.file().read(tensor.offset, values.data(), values.size() * sizeof(float));
    }
    return tensors;
}

inline std::vector<std::int32_t> int_list(const boost::json::value& value) {
    std::vector<std::int32_t> list;
    for (const auto& item : value.as_array())
        list.push_back(static_cast<std::int32_t>(item.to_number<std::int64_t>()));
    return list;
}

}  // namespace qshard::test
