#include "io/inspect/store_report.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>

#include "base/error.h"
#include "io/checkpoint/json_text.h"
#include "io/formats/weight_store.h"
#include "io/inspect/charts.h"

namespace qshard::inspect {
namespace {

namespace json = boost::json;

std::uint64_t bytes_of_units(const StoreTable& table) {
    std::uint64_t bytes = 0;
    for (const StoredUnit& unit : table.units) bytes += unit.bytes;
    return bytes;
}

std::string form_of(const StoreTable& table) {
    const Storage storage = storage_of(table.quantization);
    return describe({storage, is_four_bit(storage) && table.double_quant});
}

json::object summary_json(const WeightStore& store) {
    const StoreTable& table = store.table();
    return {{"path", store.file()->name()},
            {"kind", "weight store"},
            {"bytes", store.file()->bytes()},
            {"weights_bytes", bytes_of_units(table)},
            {"quantization", std::string(name_of(table.quantization))},
            {"double_quant", table.double_quant},
            {"plain_dtype", std::string(name_of(table.plain_dtype))},
            {"source", table.source_name},
            {"source_kind", table.source_kind},
            {"source_sha256", table.source_sha256},
            {"made_by", table.made_by},
            {"created", table.created},
            {"units", units_json(table)}};
}

}  // namespace

bool is_weight_store(const std::filesystem::path& path) {
    return std::filesystem::is_regular_file(path) && WeightStore::is_store(InputFile(path));
}

int print_store_summary(const Options& options) {
    const WeightStore store{InputFile(options.path)};
    if (options.json) {
        fmt::print("{}\n", python_json(summary_json(store)));
        return 0;
    }
    const StoreTable& table = store.table();
    fmt::print(
        "{}\n  weight store, {}; its table is whole (qshard-inspect verify reads the rest)\n",
        options.path.string(), readable_bytes(static_cast<double>(store.file()->bytes())));
    std::vector<std::string> kept;
    for (const auto& [name, file] : table.files) kept.push_back(name);
    fmt::print(
        "{}",
        qshard::inspect::table(
            {{"  linears", form_of(table)},
             {"  other weights", std::string(name_of(table.plain_dtype))},
             {"  units", fmt::format("{}, {}", table.units.size(),
                                     readable_bytes(static_cast<double>(bytes_of_units(table))))},
             {"  made from", fmt::format("{} ({})", table.source_name, table.source_kind)},
             {"  source SHA-256", table.source_sha256},
             {"  keeps of it", fmt::format("{}", fmt::join(kept, ", "))},
             {"  made by", fmt::format("{}, {}", table.made_by, table.created)}}));
    return 0;
}

std::string problem_of_store(const std::filesystem::path& path) {
    try {
        return fmt::format("{}", fmt::join(WeightStore{InputFile(path)}.damages(), "\n"));
    } catch (const Error& error) {
        return error.what();
    }
}

}  // namespace qshard::inspect
