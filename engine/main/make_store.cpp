#include "main/make_store.h"

#include <chrono>

#include "base/error.h"
#include "comm/communicator.h"
#include "io/checkpoint/state.h"
#include "io/formats/model_reader.h"
#include "io/formats/weight_store_writer.h"
#include "place/import.h"

namespace qshard {
namespace {

/// Opens the model under a log: what is read then is what the store keeps of its files.
StoreTable describe_source(const StoreRequest& request, const std::shared_ptr<ReadLog>& log) {
    const ModelSource source = open_model_source(request.model, log);
    if (source.weights->stored_units() != nullptr) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("{} is a weight store already", request.model.string()));
    }
    StoreTable table;
    table.source_kind = source.kind;
    table.source_name = request.model.string();
    table.source_sha256 = source.weights->sha256();
    table.made_by = request.made_by;
    table.created = utc_now();
    table.files = log->files();
    return table;
}

}  // namespace

StoreResult make_store(
    const StoreRequest& request,
    const std::function<void(std::size_t units_done, std::size_t units)>& progress) {
    const auto begin = std::chrono::steady_clock::now();
    const auto log = std::make_shared<ReadLog>();
    StoreTable table = describe_source(request, log);
    const std::unique_ptr<WeightReader> weights = open_model(request.model);
    const auto form = quantized_form_of(*weights);
    const Quantization as_it_is = form ? quantization_of(form->storage) : Quantization::kNf4;
    const LayoutOptions options =
        layout_options_for(*weights, request.quantization.value_or(as_it_is), request.double_quant,
                           request.plain_dtype);
    const ModelLayout layout = make_layout(weights->config(), options);
    table.quantization = options.quantization;
    table.double_quant = options.double_quant;
    table.plain_dtype = options.plain_dtype;
    WeightStoreWriter writer(request.store, layout);
    StoreResult result;
    result.notes = weights->notes();
    result.quantization = options.quantization;
    const auto self = make_self_communicator();
    std::vector<std::byte> memory(layout.largest_unit_bytes() + 2 * kUnitAlignment);
    std::byte* aligned =
        memory.data() +
        (kUnitAlignment - reinterpret_cast<std::uintptr_t>(memory.data()) % kUnitAlignment);
    for (std::size_t u = 0; u < layout.units.size(); ++u) {
        const UnitLayout& unit = layout.units[u];
        const std::span<std::byte> bytes(aligned, unit.shard_bytes(1));
        import_unit(*weights, unit, options, *self, request.threads, bytes);
        writer.add_unit(bytes.first(unit.bytes));
        result.bytes += unit.bytes;
        for (const Field& field : unit.fields) result.weights += field.weight.count();
        if (progress) progress(u + 1, layout.units.size());
    }
    writer.finish(std::move(table),
                  [&](const std::string& file, std::uint64_t at, std::span<std::byte> out) {
                      InputFile(log->path(file)).read(at, out.data(), out.size());
                  });
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
}

}  // namespace qshard
