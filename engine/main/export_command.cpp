#include "base/error.h"
#include "io/checkpoint/result_file.h"
#include "io/export/gguf_adapter.h"
#include "io/export/gguf_file.h"
#include "io/export/gguf_metadata.h"
#include "io/export/hf_folder.h"
#include "io/formats/gguf_files.h"
#include "io/formats/hub_cache.h"
#include "io/peft/adapter_folder.h"
#include "io/tokenizer/to_gguf.h"
#include "main/adapter_file.h"
#include "main/commands.h"
#include "main/cores.h"
#include "main/inference_session.h"
#include "main/progress.h"
#include "place/merged_weights.h"

/// `qshard export`: a checkpoint in a format that other programs read.
namespace qshard {
namespace {

struct Arguments {
    std::string checkpoint, format, out;
    std::optional<std::string> model;
    std::string base = "source", dtype = "bfloat16", max_shard_size = "5GB";
    std::int64_t threads = usable_cores();
    bool overwrite = false;
};

[[noreturn]] void refuse(const std::string& what) {
    throw UserError(ExitCode::kUsage, "export: " + what);
}

ModelSource open_base(const Arguments& arguments, const AdapterFile& adapter) {
    if (!arguments.model && !adapter.run) {
        refuse(fmt::format("{} does not say what it was trained on; give --model",
                           adapter.path.string()));
    }
    return open_model_source(arguments.model.value_or(adapter.run ? adapter.run->model.base : ""));
}

/// Refuses what would fail at the end.
void check_out(const Arguments& arguments) {
    if (arguments.format == "peft" || arguments.format == "merged-hf") {
        check_result_folder(arguments.out);
    } else {
        check_result_file(arguments.out, arguments.overwrite);
    }
}

ExportOptions export_options(const Arguments& arguments, ProgressBar& bar) {
    ExportOptions options;
    options.dtype = dtype_named(arguments.dtype).value();
    options.threads = static_cast<int>(arguments.threads);
    options.max_shard_bytes = static_cast<std::uint64_t>(parse_bytes(arguments.max_shard_size));
    options.progress = [&bar](std::int64_t done, std::int64_t total) {
        bar.update(done * 100 / std::max<std::int64_t>(total, 1),
                   fmt::format("{:.0f} M weights", static_cast<double>(done) / 1e6));
    };
    return options;
}

/// How the linears are held that the adapter is added to; kNone if at full precision.
LayoutOptions held_base(const Arguments& arguments, const AdapterFile& adapter,
                        const WeightReader& source) {
    LayoutOptions held;
    held.quantization = Quantization::kNone;
    if (arguments.base == "source") return held;
    if (!adapter.run) {
        refuse(fmt::format("{} does not say how its base was quantized; use --base source",
                           adapter.path.string()));
    }
    const BaseOptions trained = base_options(adapter.run->model);
    if (!trained.quantization) return held;
    return layout_options_for(source, *trained.quantization, trained.double_quant, trained.compute);
}

/// The base's own, or made from its folder.
GgufHeader gguf_metadata(const ModelSource& source) {
    if (source.kind == "gguf") return gguf_metadata_like(*open_gguf_files(source.path));
    ModelConfig config = source.weights->config();
    // llama.cpp shows the name, and knows by it how Phi-3's special tokens behave.
    if (config.name.empty()) config.name = name_of_folder(source.path);
    GgufHeader header = gguf_metadata_of(config);
    if (!source.tokenizer_json) {
        header.text("tokenizer.ggml.model", "none");
        return header;
    }
    GgufTokenizerData data = gguf_tokenizer_of(source.tokenizer_json->text,
                                               source.tokenizer_json->origin, config.vocabulary);
    const TextModel text = open_text_model(source.path, std::nullopt);
    data.add_bos = text.add_bos;
    data.bos = text.bos;
    data.eos = text.eos;
    add_gguf_tokenizer(header, data, config, source.chat_templates);
    return header;
}

void merge(const Arguments& arguments, const AdapterFile& adapter) {
    const ModelSource source = open_base(arguments, adapter);
    if (source.kind == "store") {
        refuse(fmt::format("{} is a weight store; give --model with what it was made from",
                           source.path.string()));
    }
    print_notes(source.weights->notes(), true);
    check_out(arguments);
    refuse_to_replace(source.path, arguments.out);
    const AdapterLayout layout = fit_adapter(adapter, *source.weights);
    const std::vector<float> values = flat_values(adapter, layout);
    ProgressBar bar("merging", 100, TerminalStyle::of_stderr("auto"), true);
    const ExportOptions options = export_options(arguments, bar);
    const LayoutOptions held = held_base(arguments, adapter, *source.weights);
    const QuantizedWeights trained(*source.weights, held, options.threads);
    const MergedWeights merged(trained, layout, values, options.dtype);
    if (arguments.format == "merged-hf") {
        FolderFiles files = source.kind == "gguf" ? folder_files_of_gguf(source, options.dtype)
                                                  : folder_files_like(source.path, options.dtype);
        files.config["tie_word_embeddings"] = merged.config().tied_head;
        write_hugging_face_model(arguments.out, merged, files, options);
        if (source.kind == "gguf" && !files.others.contains("tokenizer.json")) {
            bar.message(
                "the GGUF file has no tokenizer that qshard knows; copy the original model's");
        }
    } else {
        write_gguf_model(arguments.out, merged, gguf_metadata(source), options);
    }
    bar.finish();
    fmt::print("{}: {} with the adapter of step {} merged into {}, {}\n", arguments.out,
               source.path.filename().string(), adapter.state.step,
               held.quantization == Quantization::kNone
                   ? "the base at full precision"
                   : "the base as it was quantized in training",
               arguments.dtype);
}

int export_adapter(const Arguments& arguments) {
    const AdapterFile adapter = read_newest_checkpoint(arguments.checkpoint);
    if (arguments.format == "peft") {
        check_out(arguments);
        // What is left out must be the base's own.
        if (adapter.copies.file != nullptr)
            fit_adapter(adapter, *open_base(arguments, adapter).weights);
        write_peft_adapter(arguments.out, adapter.state);
        fmt::print("{}: PEFT adapter of step {}, from {}\n", arguments.out, adapter.state.step,
                   adapter.path.string());
    } else if (arguments.format == "gguf") {
        const ModelSource source = open_base(arguments, adapter);
        check_out(arguments);
        const AdapterLayout layout = fit_adapter(adapter, *source.weights);
        write_gguf_adapter(arguments.out, source.weights->config(), layout,
                           flat_values(adapter, layout));
        fmt::print(summary_stream(arguments.out),
                   "{}: GGUF adapter of step {} for llama.cpp (--lora), from {}\n", arguments.out,
                   adapter.state.step, adapter.path.string());
    } else {
        merge(arguments, adapter);
    }
    return 0;
}

}  // namespace

void add_export_command(Command program) {
    auto arguments = std::make_shared<Arguments>();
    Command command =
        program.subcommand("export", "Write a checkpoint's adapter for other programs");
    command
        .option("CHECKPOINT", arguments->checkpoint,
                "checkpoint (.h5), output folder (its newest checkpoint) or PEFT folder")
        .required();
    command
        .option("--to", arguments->format,
                "peft: adapter folder | gguf: adapter for llama.cpp | merged-hf: model folder "
                "with the adapter merged in | merged-gguf: the same as a GGUF file")
        .required()
        .one_of({"peft", "gguf", "merged-hf", "merged-gguf"});
    command.option("--model", arguments->model,
                   "the base: GGUF file or Hugging Face folder (default: the run's)");
    command
        .option("--base", arguments->base,
                "merge into the weights of the source (default), as PEFT does with the base "
                "loaded in 16 bits, or quantized: into what training saw, expanded")
        .one_of({"source", "quantized"});
    command.option("--dtype", arguments->dtype, "of merged weights (default bfloat16)")
        .one_of({"bfloat16", "float16", "float32"});
    command.option("--max-shard-size", arguments->max_shard_size,
                   "of one safetensors file (default 5GB)");
    command.option("--threads", arguments->threads, "default: all cores").between(1, 4096);
    command
        .option("OUT", arguments->out,
                "new or empty folder (peft, merged-hf) or file (gguf) to write")
        .required();
    command.flag("--overwrite", arguments->overwrite,
                 "replace the output file if it exists (folders are never written over)");
    command.action([arguments] { return export_adapter(*arguments); });
}

}  // namespace qshard
