#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "io/data/format.h"

/// A data file; the first byte chooses its kind. Rows are then read in every format.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace qshard;
    if (bytes == 0) return 0;
    static const char* const kinds[] = {"jsonl", "json", "csv"};
    const std::string path = fmt::format("/dev/shm/fuzz-rows-{}.{}", getpid(), kinds[data[0] % 3]);
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || std::fwrite(data + 1, 1, bytes - 1, file) != bytes - 1) std::abort();
    std::fclose(file);
    std::vector<DataRow> rows;
    try {
        rows = read_rows(path);
    } catch (const UserError&) {
    }
    ::unlink(path.c_str());
    for (const DataRow& row : rows) {
        for (int format = 0; format <= static_cast<int>(RowFormat::kPreference); ++format) {
            try {
                interpret_row(row,
                              {static_cast<RowFormat>(format), "{text} and {{{prompt}}}\n", "a"});
            } catch (const UserError&) {
            }
        }
    }
    return 0;
}
