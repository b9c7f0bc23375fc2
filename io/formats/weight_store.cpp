#include "io/formats/weight_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "spec/json.h"
#include "spec/json_keys.h"

namespace qshard {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxTable = std::size_t{64} << 20;
constexpr std::size_t kMaxUnits = 100'000, kMaxFiles = 8192, kMaxPieces = 100'000;
constexpr std::size_t kReadBytes = std::size_t{4} << 20;
constexpr std::string_view kFormat = "qshard weight store";

std::uint64_t whole(const json::value& value, const std::string& origin) {
    if (!value.is_int64() || value.get_int64() < 0)
        throw UserError(origin + ": expected a whole number that is not negative");
    return static_cast<std::uint64_t>(value.get_int64());
}

std::uint64_t whole(JsonKeys& keys, std::string_view key) {
    const auto value = keys.integer(key, 0, std::numeric_limits<std::int64_t>::max());
    if (!value) keys.fail(key, "a whole number");
    return static_cast<std::uint64_t>(*value);
}

std::string required(JsonKeys& keys, std::string_view key) {
    std::optional<std::string> value = keys.text(key);
    if (!value) keys.fail(key, "text");
    return *value;
}

bool inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t all) {
    return offset <= all && bytes <= all - offset;
}

StoredUnit parse_unit(const json::value& value, std::uint64_t file_bytes,
                      const std::string& origin) {
    if (!value.is_object()) throw UserError(origin + ": a unit must be an object");
    JsonKeys keys(value.get_object(), origin + ": unit");
    StoredUnit unit;
    unit.name = required(keys, "name");
    unit.offset = whole(keys, "offset");
    unit.bytes = whole(keys, "bytes");
    if (unit.offset % kStorePage != 0 || !inside(unit.offset, unit.bytes, file_bytes))
        keys.fail("offset", "a page inside the file");
    if (unit.bytes % 8 != 0) keys.fail("bytes", "whole words of 8 bytes, as sums are of them");
    const auto sum = PositionSum::from_hex(required(keys, "sum"));
    if (!sum) keys.fail("sum", "32 hexadecimal digits");
    unit.sum = *sum;
    return unit;
}

PartialFile parse_file(const json::value& value, std::uint64_t file_bytes,
                       const std::string& origin) {
    if (!value.is_object()) throw UserError(origin + ": a kept file must be an object");
    JsonKeys keys(value.get_object(), origin + ": kept file");
    PartialFile file;
    file.bytes = whole(keys, "bytes");
    const json::array* pieces = keys.array("pieces");
    if (pieces == nullptr || pieces->size() > kMaxPieces) keys.fail("pieces", "a list");
    std::uint64_t end = 0;
    for (const json::value& item : *pieces) {
        if (!item.is_array() || item.get_array().size() != 3)
            keys.fail("pieces", "lists of three numbers");
        const json::array& numbers = item.get_array();
        const FilePiece piece{whole(numbers[0], origin), whole(numbers[1], origin),
                              whole(numbers[2], origin)};
        if (piece.at < end || !inside(piece.at, piece.bytes, file.bytes) ||
            !inside(piece.offset, piece.bytes, file_bytes)) {
            keys.fail("pieces", "ascending pieces inside both files");
        }
        end = piece.at + piece.bytes;
        file.pieces.push_back(piece);
    }
    return file;
}

}  // namespace

std::string layout_digest(const ModelLayout& layout) {
    Sha256 digest;
    for (const UnitLayout& unit : layout.units) {
        digest.update(fmt::format("{} {}\n", unit.name, unit.bytes));
        for (const Field& field : unit.fields) {
            digest.update(fmt::format(
                "{} {} {} {} {}\n", field.weight.name, field.weight.rows, field.weight.cols,
                describe({field.storage, field.double_quant}), name_of(field.dtype)));
            for (const FieldPart& part : parts_of(field))
                digest.update(
                    fmt::format("{} {} {}\n", static_cast<int>(part.part), part.begin, part.bytes));
        }
    }
    return digest.hex();
}

json::array units_json(const StoreTable& table) {
    json::array units;
    for (const StoredUnit& unit : table.units) {
        units.push_back(json::object{{"name", unit.name},
                                     {"offset", unit.offset},
                                     {"bytes", unit.bytes},
                                     {"sum", unit.sum.hex()}});
    }
    return units;
}

std::string store_table_text(const StoreTable& table) {
    json::object root = {{"format", std::string(kFormat)},
                         {"made_by", table.made_by},
                         {"created", table.created},
                         {"source_kind", table.source_kind},
                         {"source_name", table.source_name},
                         {"source_sha256", table.source_sha256},
                         {"quantization", std::string(name_of(table.quantization))},
                         {"double_quant", table.double_quant},
                         {"plain_dtype", std::string(name_of(table.plain_dtype))},
                         {"layout_sha256", table.layout_sha256}};
    root["units"] = units_json(table);
    json::object files;
    for (const auto& [name, file] : table.files) {
        json::array pieces;
        for (const FilePiece& piece : file.pieces)
            pieces.push_back(json::array{piece.at, piece.bytes, piece.offset});
        files[name] = json::object{{"bytes", file.bytes}, {"pieces", std::move(pieces)}};
    }
    root["files"] = std::move(files);
    return json::serialize(root);
}

StoreTable parse_store_table(std::string_view text, std::uint64_t file_bytes,
                             const std::string& origin) {
    const json::value document = parse_strict_json(text, origin, {.bytes = kMaxTable});
    if (!document.is_object()) throw UserError(origin + ": expected a JSON object");
    JsonKeys keys(document.get_object(), origin);
    if (keys.text("format") != kFormat) keys.fail("format", std::string(kFormat));
    StoreTable table;
    table.made_by = keys.text("made_by").value_or("");
    table.created = keys.text("created").value_or("");
    table.source_kind = required(keys, "source_kind");
    table.source_name = keys.text("source_name").value_or("");
    table.source_sha256 = required(keys, "source_sha256");
    const std::string quantization = required(keys, "quantization");
    const std::vector<std::string> known = quantization_names();
    if (std::find(known.begin(), known.end(), quantization) == known.end())
        keys.fail("quantization", fmt::format("one of {}", fmt::join(known, ", ")));
    table.quantization = quantization_named(quantization);
    table.double_quant = keys.boolean("double_quant").value_or(false);
    const std::string plain = required(keys, "plain_dtype");
    if (plain != name_of(DType::kBF16) && plain != name_of(DType::kF32))
        keys.fail("plain_dtype", "bfloat16 or float32");
    table.plain_dtype = plain == name_of(DType::kF32) ? DType::kF32 : DType::kBF16;
    table.layout_sha256 = required(keys, "layout_sha256");
    const json::array* units = keys.array("units");
    if (units == nullptr || units->empty() || units->size() > kMaxUnits)
        keys.fail("units", "a list of units");
    for (const json::value& unit : *units)
        table.units.push_back(parse_unit(unit, file_bytes, origin));
    const json::object* files = keys.object("files");
    if (files == nullptr || files->size() > kMaxFiles) keys.fail("files", "an object");
    for (const auto& [name, file] : *files)
        table.files.emplace(std::string(name), parse_file(file, file_bytes, origin));
    return table;
}

bool WeightStore::is_store(const InputFile& file) {
    std::array<char, 8> magic{};
    if (file.bytes() < magic.size()) return false;
    file.read(0, magic.data(), magic.size());
    return magic == kStoreMagic;
}

WeightStore::WeightStore(InputFile input)
    : file_(std::make_shared<const InputFile>(std::move(input))) {
    const InputFile& file = *file_;
    if (!is_store(file)) throw UserError(fmt::format("{} is not a weight store", file.name()));
    const auto refuse = [&](const char* what) {
        throw UserError(
            fmt::format("{}: the weight store {}\nCopy it again, or make it again with qshard "
                        "quantize.",
                        file.name(), what));
    };
    StoreHead head;
    StoreTail tail;
    if (file.bytes() < kStorePage + sizeof tail) refuse("is truncated");
    file.read(0, &head, sizeof head);
    if (head.version != kStoreVersion) {
        throw UserError(fmt::format(
            "{}: weight store of version {}; this program reads version {}\nMake it again with "
            "qshard quantize.",
            file.name(), head.version, kStoreVersion));
    }
    file.read(file.bytes() - sizeof tail, &tail, sizeof tail);
    if (tail.magic != kStoreMagic) refuse("does not end as it should: it is truncated or damaged");
    if (!inside(tail.table_offset, tail.table_bytes, file.bytes()) ||
        tail.table_bytes > kMaxTable) {
        refuse("has a damaged end");
    }
    std::string text(static_cast<std::size_t>(tail.table_bytes), '\0');
    file.read(tail.table_offset, text.data(), text.size());
    if (sha256_of(std::as_bytes(std::span(text))) != tail.table_sha256)
        refuse("has a damaged table");
    table_ = parse_store_table(text, file.bytes(), file.name());
}

void WeightStore::read(std::size_t unit, std::uint64_t first, std::span<std::byte> out) const {
    const StoredUnit& stored = table_.units.at(unit);
    check(inside(first, out.size(), stored.bytes), "a read lies inside its unit");
    file_->read(stored.offset + first, out.data(), out.size());
}

void WeightStore::check_sum(std::size_t unit, const PositionSum& found) const {
    const StoredUnit& stored = table_.units.at(unit);
    if (found == stored.sum) return;
    throw UserError(fmt::format(
        "{}: unit {} of the weight store (bytes {} to {}) is damaged: its sum is {}, expected {}\n"
        "Copy it again, or make it again with qshard quantize.",
        file_->name(), stored.name, stored.offset, stored.offset + stored.bytes, found.hex(),
        stored.sum.hex()));
}

std::vector<std::string> WeightStore::damages() const {
    std::vector<std::string> found;
    std::vector<std::byte> block(kReadBytes);
    for (std::size_t u = 0; u < table_.units.size(); ++u) {
        PositionSum sum;
        const std::uint64_t bytes = table_.units[u].bytes;
        for (std::uint64_t at = 0; at < bytes; at += kReadBytes) {
            const std::span<std::byte> part = std::span(block).first(
                static_cast<std::size_t>(std::min<std::uint64_t>(kReadBytes, bytes - at)));
            read(u, at, part);
            sum.add(part, at);
        }
        try {
            check_sum(u, sum);
        } catch (const UserError& error) {
            found.emplace_back(error.what());
        }
    }
    return found;
}

}  // namespace qshard
