#include <chrono>
#include <utility>

#include "backend/device_buffer.h"
#include "base/parallel.h"
#include "comm/bench.h"
#include "io/checkpoint/result_file.h"
#include "main/bench_step.h"
#include "main/commands.h"
#include "main/inference_session.h"
#include "main/random_model.h"
#include "place/import.h"
#include "tensor/nf4.h"

/// `qshard bench`: how fast this machine does what training does.
namespace qshard {
namespace {

double seconds_of(const std::function<void()>& run) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

/// What loading a model is made of, without the ranks: every unit read, quantized and laid out.
int bench_import(const BenchArguments& arguments) {
    const auto weights = open_model(*arguments.model);
    const auto form = quantized_form_of(*weights);
    const LayoutOptions options = layout_options_for(
        *weights, form ? quantization_of(form->storage) : Quantization::kNf4, true, DType::kBF16);
    const ModelLayout layout = make_layout(weights->config(), options);
    const auto self = make_self_communicator();
    const auto backend = make_agreed_backend(arguments.backend, *self, 1);
    std::vector<std::byte> memory(layout.largest_unit_bytes() + kUnitAlignment);
    std::byte* aligned =
        memory.data() +
        (kUnitAlignment - reinterpret_cast<std::uintptr_t>(memory.data()) % kUnitAlignment);
    std::int64_t count = 0;
    double layers = 0, others = 0;
    for (const UnitLayout& unit : layout.units) {
        const double seconds = seconds_of([&] {
            import_unit(*weights, unit, options, *self, backend->threads(),
                        {aligned, unit.shard_bytes(1)});
        });
        const bool layer = unit.name.starts_with("layer.");
        (layer ? layers : others) += seconds;
        for (const Field& field : unit.fields) count += layer ? field.weight.count() : 0;
    }
    const double rate = static_cast<double>(count) / layers;
    const double core = rate / backend->threads();
    if (arguments.json) {
        const boost::json::object result{
            {"threads", backend->threads()},
            {"quantization", std::string(name_of(options.quantization))},
            {"weights", count},
            {"weights_per_second", rate},
            {"weights_per_second_per_thread", core},
            {"layers_seconds", layers},
            {"other_seconds", others}};
        print(boost::json::serialize(result) + "\n");
    } else {
        print(fmt::format(
            "{}: layers read into {} at {:.3f} G weights/s, {:.3f} on each of {} threads; "
            "{:.2f} s, and {:.2f} s for embedding and head\n",
            *arguments.model, name_of(options.quantization), rate / 1e9, core / 1e9,
            backend->threads(), layers, others));
    }
    return 0;
}

int bench_quantize(const BenchArguments& arguments) {
    if (arguments.model) return bench_import(arguments);
    constexpr std::int64_t kWeights = std::int64_t{1} << 24, kTask = std::int64_t{1} << 16;
    const auto self = make_self_communicator();
    const auto backend = make_agreed_backend(arguments.backend, *self, 1);
    const int threads = backend->threads();
    const RandomWeights source(config_of_shape("135m"));
    const WeightSpec matrix{Role::kQ, "bench.weight", 4096, kWeights / 4096, true};
    std::vector<bf16> values(kWeights);  // as most models have them
    source.read_bf16(matrix, 0, values);
    std::vector<std::uint8_t> codes(kWeights / 2), second(kWeights / kFourBitBlock);
    std::vector<float> absmax(kWeights / kFourBitBlock), nested(absmax.size() / kNestedBlock);
    float offset = 0;
    double quantize = 1e30, expand = 1e30;
    for (int round = 0; round < 3; ++round) {
        quantize = std::min(quantize, seconds_of([&] {
                                parallel_for(threads, kWeights / kTask, [&](std::int64_t task) {
                                    const auto at = static_cast<std::size_t>(task * kTask);
                                    quantize_four_bit(
                                        kNf4Code, std::span<const bf16>(values).subspan(at, kTask),
                                        codes.data() + at / 2, absmax.data() + at / kFourBitBlock);
                                });
                                offset = mean_absmax(absmax);
                                double_quantize(absmax, offset, second.data(), nested.data());
                            }));
    }
    const DeviceBuffer device(*backend, codes.size() + second.size() + nested.size() * 4 + 4);
    auto* next = static_cast<std::uint8_t*>(device.get());
    auto put = [&](const void* host, std::size_t bytes) {
        backend->upload(next, host, bytes);
        return std::exchange(next, next + bytes);
    };
    WeightView view;
    view.storage = Storage::kNf4;
    view.rows = matrix.rows;
    view.cols = matrix.cols;
    view.codes = put(codes.data(), codes.size());
    view.double_quant = true;
    view.absmax_codes = put(second.data(), second.size());
    view.absmax2 = reinterpret_cast<const float*>(put(nested.data(), nested.size() * 4));
    view.absmax_offset = reinterpret_cast<const float*>(put(&offset, 4));
    void* packed = backend->allocate(
        backend->packed_bytes(view.rows, view.cols, Orientation::kForward, DType::kBF16));
    for (int round = 0; round < 5; ++round) {
        expand = std::min(expand, seconds_of([&] {
                              backend->pack(view, Orientation::kForward, DType::kBF16, packed);
                              backend->synchronize();
                          }));
    }
    backend->release(packed);
    const double weights = static_cast<double>(kWeights);
    if (arguments.json) {
        const boost::json::object result{{"threads", threads},
                                         {"quantize_weights_per_second", weights / quantize},
                                         {"expand_weights_per_second", weights / expand}};
        print(boost::json::serialize(result) + "\n");
    } else {
        print(
            fmt::format("NF4 with double quantization, {} {}, {} threads\n"
                        "quantize {:7.3f} G weights/s\nexpand   {:7.3f} G weights/s (into bf16 "
                        "operands)\n",
                        backend->name(), backend->isa(), threads, weights / quantize / 1e9,
                        weights / expand / 1e9));
    }
    return 0;
}

int bench_files(const std::string& folder, std::int64_t bytes, bool json) {
    const std::filesystem::path file =
        std::filesystem::path(folder) / fmt::format(".qshard-bench-{}", getpid());
    check_result_file(file, false);
    std::vector<std::byte> block(static_cast<std::size_t>(bytes));
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = static_cast<std::byte>(i * 167 >> 3);
    struct Remove {
        const std::filesystem::path& file;
        ~Remove() {
            std::error_code ignored;
            std::filesystem::remove(file, ignored);
        }
    } const remove{file};
    const double write = seconds_of([&] { write_file_atomic(file, block); });
    const double read = seconds_of([&] { read_file(file, block.size()); });
    double small = 1e30;
    for (int round = 0; round < 5; ++round) {
        small = std::min(small, seconds_of([&] {
                             write_file_atomic(file, std::span(block).first(std::min<std::size_t>(
                                                         block.size(), 4096)));
                         }));
    }
    const auto rate = static_cast<double>(bytes);
    if (json) {
        const boost::json::object result{{"folder", folder},
                                         {"bytes", bytes},
                                         {"write_bytes_per_second", rate / write},
                                         {"read_bytes_per_second", rate / read},
                                         {"small_file_seconds", small}};
        print(boost::json::serialize(result) + "\n");
    } else {
        print(fmt::format(
            "{}: durable write {:.1f} MB/s, read back {:.1f} MB/s (perhaps from memory), a "
            "durable 4 KiB file in {:.2f} ms\n",
            folder, rate / write / 1e6, rate / read / 1e6, small * 1e3));
    }
    return 0;
}

int bench_links(std::int64_t largest, bool json) {
    return run_ranks("auto", 1, false, [&](Communicator& group, int, const Launch*) {
        const auto speeds = bench_comm(group, static_cast<std::size_t>(largest));
        if (group.rank() != 0) return;
        if (!json) return print(link_table(group, speeds));
        boost::json::array list;
        for (const LinkSpeed& speed : speeds) {
            list.push_back({{"operation", speed.operation},
                            {"bytes", speed.bytes},
                            {"microseconds", speed.microseconds},
                            {"gigabytes_per_second", speed.gigabytes_per_second}});
        }
        print(boost::json::serialize(
                  boost::json::object{{"ranks", group.count()},
                                      {"transport", std::string(group.transport())},
                                      {"links", list}}) +
              "\n");
    });
}

void add_compute_flags(Command command, BenchArguments& arguments, bool model) {
    command.option("--backend", arguments.backend.backend, "auto | cpu | cuda | reference")
        .one_of(backend_words());
    command.option("--threads", arguments.backend.threads, "per rank (default: all cores)")
        .between(1, 4096);
    command.option("--cpu-isa", arguments.backend.cpu_isa,
                   "kernels: auto | amx_bf16 | avx512_bf16 | avx512 | avx2 | sse");
    command.flag("--json", arguments.json, "for scripts");
    if (!model) return;
    CommandOption path =
        command.option("--model", arguments.model, "GGUF file or Hugging Face folder");
    command.option("--shape", arguments.shape, "random weights: 135m (default) | 1b | 8b | 70b")
        .one_of({"135m", "1b", "8b", "70b"})
        .excludes(path);
    command.option("--max-length", arguments.max_length, "tokens of a row (default 512)")
        .between(1, 1 << 20);
    command.option("--micro-batch-size", arguments.micro_batch_size, "rows of a slot (default 2)")
        .between(1, 1 << 16);
    command.option("--compute-dtype", arguments.compute_dtype, "bfloat16 (default) | float32")
        .one_of(compute_dtype_words());
}

void add_step_flags(Command command, BenchArguments& arguments) {
    command.option("--r", arguments.r, "adapter rank (default 16)").between(1, 1024);
    command.option("--steps", arguments.steps, "timed steps after one that warms up (default 5)")
        .between(5, 10000);
    command.option("--slots", arguments.slots, "slots of a step (default: one a rank)")
        .between(1, 1 << 16);
    command
        .option("--placement", arguments.placement,
                "replicated (default) | gathered | host_streamed (of a GPU)")
        .one_of(words_in(kPlacementWords));
    command.option("--quantization", arguments.quantization, "nf4 (default) | fp4 | int8 | none")
        .one_of(quantization_names());
    command.option("--recompute", arguments.recompute, "auto (default) | always | never")
        .one_of(words_in(kRecomputeWords));
}

}  // namespace

void add_bench_command(Command program) {
    struct All {
        BenchArguments step;
        std::string folder = ".", bytes = "256MiB", largest = "16MiB";
    };
    auto all = std::make_shared<All>();
    Command bench = program.subcommand("bench", "Measure this machine at what training does");
    Command step =
        bench.subcommand("step", "whole training steps: tokens/s, share of the peak, memory");
    add_compute_flags(step, all->step, true);
    add_step_flags(step, all->step);
    step.action([all] {
        return run_ranks("auto", 1, wants_gpus(all->step.backend.backend),
                         [&](Communicator& group, int local_ranks, const Launch*) {
                             bench_step(all->step, group, local_ranks);
                         });
    });
    Command gemm = bench.subcommand("gemm", "the products of a training step, one by one");
    add_compute_flags(gemm, all->step, true);
    gemm.action([all] {
        bench_gemm(all->step);
        return 0;
    });
    Command quantize = bench.subcommand("quantize", "NF4: quantizing and expanding");
    add_compute_flags(quantize, all->step, false);
    quantize.option("--model", all->step.model,
                    "read and quantize this model instead (perhaps from memory)");
    quantize.action([all] { return bench_quantize(all->step); });
    Command comm = bench.subcommand("comm", "moving bytes between ranks (under mpirun or srun)");
    comm.option("--largest", all->largest, "largest message of a rank (default 16MiB)");
    comm.flag("--json", all->step.json, "for scripts");
    comm.action([all] { return bench_links(parse_bytes(all->largest), all->step.json); });
    Command files = bench.subcommand("files", "durable writes and reads in a folder");
    files.option("FOLDER", all->folder, "default: this one");
    files.option("--bytes", all->bytes, "of the large file (default 256MiB)");
    files.flag("--json", all->step.json, "for scripts");
    files.action(
        [all] { return bench_files(all->folder, parse_bytes(all->bytes), all->step.json); });
}

}  // namespace qshard
