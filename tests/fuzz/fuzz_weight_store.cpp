#include <cstring>

#include "base/error.h"
#include "io/formats/hf_model.h"
#include "io/formats/weight_store.h"
#include "memory_file.h"

/// u16 bytes of the table, the table, then the units and what is kept of files. The digest of the
/// table is put right, so that what is wrong inside it is what is found.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    if (bytes < 2) return 0;
    const std::size_t table = std::min<std::size_t>(data[0] | data[1] << 8, bytes - 2);
    const std::span<const std::byte> content = std::as_bytes(std::span(data + 2, bytes - 2));
    qshard::StoreTail tail;
    tail.table_bytes = table;
    tail.table_sha256 = qshard::sha256_of(content.first(table));
    const qshard::StoreHead head;
    std::vector<std::uint8_t> file(qshard::kStorePage);
    std::memcpy(file.data(), &head, sizeof head);
    file.insert(file.end(), data + 2 + table, data + bytes);
    tail.table_offset = file.size();
    file.insert(file.end(), data + 2, data + 2 + table);
    const auto* end = reinterpret_cast<const std::uint8_t*>(&tail);
    file.insert(file.end(), end, end + sizeof tail);
    try {
        const qshard::WeightStore store(memory_file(file.data(), file.size()));
        store.damages();
        const std::string text = qshard::store_table_text(store.table());
        const auto again = qshard::parse_store_table(text, file.size(), "again");
        if (qshard::store_table_text(again) != text) __builtin_trap();
        qshard::open_hugging_face_model(qshard::ModelFolder(store.file(), store.table().files));
    } catch (const qshard::UserError&) {
    }
    return 0;
}
