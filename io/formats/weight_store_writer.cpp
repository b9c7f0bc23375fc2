#include "io/formats/weight_store_writer.h"

#include <algorithm>

#include "base/error.h"

namespace qshard {
namespace {

void check_space(const std::filesystem::path& target, const ModelLayout& layout) {
    std::error_code error;
    const auto space =
        std::filesystem::space(std::filesystem::absolute(target).parent_path(), error);
    if (error || space.available >= layout.bytes()) return;
    throw SystemError(fmt::format("writing {}: {} bytes are needed, {} are free", target.string(),
                                  layout.bytes(), space.available));
}

}  // namespace

WeightStoreWriter::WeightStoreWriter(const std::filesystem::path& target, const ModelLayout& layout)
    : layout_(layout), file_(target) {
    if (file_.path()) check_space(*file_.path(), layout);
    const StoreHead head;
    append(std::as_bytes(std::span(&head, 1)));
}

void WeightStoreWriter::append(std::span<const std::byte> bytes) {
    file_.write(bytes);
    end_ += bytes.size();
}

void WeightStoreWriter::pad() {
    append(std::vector<std::byte>((kStorePage - end_ % kStorePage) % kStorePage));
}

void WeightStoreWriter::add_unit(std::span<const std::byte> bytes) {
    const UnitLayout& unit = layout_.units.at(units_.size());
    check(bytes.size() == unit.bytes, "a unit has its layout's bytes");
    pad();
    StoredUnit stored{unit.name, end_, bytes.size(), {}};
    stored.sum.add(bytes, 0);
    append(bytes);
    units_.push_back(std::move(stored));
}

void WeightStoreWriter::finish(StoreTable table, const ReadSource& read) {
    check(units_.size() == layout_.units.size(), "a store has all units");
    table.layout_sha256 = layout_digest(layout_);
    table.units = units_;
    for (auto& [name, file] : table.files) {
        for (FilePiece& piece : file.pieces) {
            piece.offset = end_;
            std::vector<std::byte> bytes(static_cast<std::size_t>(piece.bytes));
            read(name, piece.at, bytes);
            append(bytes);
        }
    }
    const std::string text = store_table_text(table);
    StoreTail tail;
    tail.table_offset = end_;
    tail.table_bytes = text.size();
    tail.table_sha256 = sha256_of(std::as_bytes(std::span(text)));
    append(std::as_bytes(std::span(text)));
    append(std::as_bytes(std::span(&tail, 1)));
    file_.finish();
    file_.commit();
}

}  // namespace qshard
