#include "base/error.h"
#include "io/formats/safetensors.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    try {
        const qshard::SafetensorsFile file(memory_file(data, bytes));
        for (const auto& [name, tensor] : file.tensors()) {
            // What an accepted header says must be readable.
            std::string content(static_cast<std::size_t>(tensor.bytes), '\0');
            file.file().read(tensor.offset, content.data(), content.size());
        }
    } catch (const qshard::UserError&) {
    }
    return 0;
}
