#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>

#include "io/checkpoint/result_file.h"
#include "main/commands.h"
#include "main/cores.h"
#include "main/make_store.h"
#include "main/progress.h"
#include "main/session.h"
#include "main/version.h"
#include "train/trainer.h"

/// `qshard quantize`: a model once quantized, for fast starts.
namespace qshard {
namespace {

struct Arguments {
    std::string model, store, compute_dtype = "bfloat16";
    std::optional<std::string> quantization;
    bool plain_absmax = false, json = false, overwrite = false;
    std::int64_t threads = usable_cores();
};

int quantize(const Arguments& arguments) {
    check_result_file(arguments.store, arguments.overwrite);
    refuse_to_replace(arguments.model, arguments.store);
    StoreRequest request;
    request.model = arguments.model;
    request.store = arguments.store;
    if (arguments.quantization) request.quantization = quantization_named(*arguments.quantization);
    request.double_quant = !arguments.plain_absmax;
    request.plain_dtype = dtype_named(arguments.compute_dtype).value();
    request.threads = static_cast<int>(arguments.threads);
    request.made_by = "qshard " + engine_version();
    ProgressBar bar("quantizing", 100, TerminalStyle::of_stderr("auto"),
                    isatty(STDERR_FILENO) == 1);
    const StoreResult result = make_store(request, [&](std::size_t done, std::size_t units) {
        bar.update(static_cast<std::int64_t>(100 * done / units),
                   fmt::format("{} of {} units", done, units));
    });
    bar.finish();
    print_notes(result.notes, true);
    const double rate = static_cast<double>(result.weights) / result.seconds;
    if (arguments.json) {
        const boost::json::object facts{{"store", arguments.store},
                                        {"quantization", std::string(name_of(result.quantization))},
                                        {"bytes", result.bytes},
                                        {"weights", result.weights},
                                        {"seconds", result.seconds},
                                        {"weights_per_second", rate}};
        fmt::print(summary_stream(arguments.store), "{}\n", boost::json::serialize(facts));
        return 0;
    }
    fmt::print(summary_stream(arguments.store),
               "{}: {}, {} of weights, made in {} ({:.2f} G weights/s)\nStart from it with "
               "model.base: {}\n",
               arguments.store, name_of(result.quantization), human_bytes(result.bytes),
               human_seconds(result.seconds), rate / 1e9, arguments.store);
    return 0;
}

}  // namespace

void add_quantize_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    Command command = program.subcommand(
        "quantize", "Quantize a model once, into a weight store that runs start from");
    command.option("MODEL", arguments->model, "GGUF file or Hugging Face folder").required();
    command.option("STORE", arguments->store, "file to write (STORE.qs)").required();
    command
        .option("--quantization", arguments->quantization,
                fmt::format("{} (default: as the model is, nf4 if it is not quantized)",
                            fmt::join(quantization_names(), " | ")))
        .one_of(quantization_names());
    command.flag("--no-double-quant", arguments->plain_absmax,
                 "keep the absmax values of 4-bit blocks in float32");
    command
        .option("--compute-dtype", arguments->compute_dtype,
                "of the runs it is for: bfloat16 (default) | float32")
        .one_of(compute_dtype_words());
    command.option("--threads", arguments->threads, "default: all cores").between(1, 4096);
    command.flag("--overwrite", arguments->overwrite, kOverwriteHelp);
    command.flag("--json", arguments->json, "for scripts");
    command.action([arguments] { return quantize(*arguments); });
}

}  // namespace qshard
