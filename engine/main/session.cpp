#include "main/session.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "backend/cpu/self_check.h"
#include "backend/cuda/cuda.h"
#include "comm/agree.h"
#include "comm/threads.h"
#include "io/data/token_range.h"
#include "main/cores.h"
#include "main/special_tokens.h"

namespace qshard {
namespace {

constexpr std::size_t kTokenizerBytes = std::size_t{256} << 20;
constexpr std::size_t kTokenizerConfigBytes = std::size_t{16} << 20;

/// A tokenizer that is not the model's own.
void take_tokenizer(const std::filesystem::path& path, TextModel& model) {
    const bool folder = std::filesystem::is_directory(path);
    const std::filesystem::path root = folder ? path : path.parent_path();
    const InputFile file = folder ? InputFile::inside(path, "tokenizer.json") : InputFile(path);
    model.tokenizer = Tokenizer::from_json_text(file.text(kTokenizerBytes), file.name());
    const auto beside = [&](const char* name) -> std::optional<ModelText> {
        if (!std::filesystem::is_regular_file(root / name)) return std::nullopt;
        return ModelText{(root / name).string(),
                         InputFile::inside(root, name).text(kTokenizerConfigBytes)};
    };
    auto config = beside("tokenizer_config.json");
    if (!config) return;
    model.source.tokenizer_config = std::move(config);
    model.source.special_tokens_map = beside("special_tokens_map.json");
}

/// That of a GGUF file, whose errors do not know the file.
Tokenizer gguf_tokenizer_of(const ModelSource& source) {
    try {
        return Tokenizer::from_gguf(*source.gguf_tokenizer);
    } catch (const UserError& error) {
        throw UserError(error.code(), fmt::format("{}: {}", source.path.string(), error.what()));
    }
}

}  // namespace

const Tokenizer& TextModel::text() const {
    if (!tokenizer) {
        throw UserError(fmt::format(
            "{} has no tokenizer; expected tokenizer.json beside it or GGUF metadata. Give "
            "token ids instead of text, or set model.tokenizer.",
            source.path.string()));
    }
    return *tokenizer;
}

void TextModel::check_ids(std::span<const std::int32_t> ids, const std::string& place) const {
    const auto beyond = std::ranges::find_if(
        ids, [this](std::int32_t id) { return id < 0 || id >= config().vocabulary; });
    if (beyond == ids.end()) return;
    throw UserError(
        fmt::format("{}: {}", place,
                    beyond_embedding(*beyond, tokenizer ? tokenizer->id_to_token(*beyond) : "",
                                     config().vocabulary)));
}

void print_notes(const std::vector<std::string>& notes, bool speaks) {
    if (!speaks) return;
    for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
}

TextModel open_text_model(const std::filesystem::path& path,
                          const std::optional<std::string>& tokenizer) {
    TextModel model;
    model.source = open_model_source(path);
    model.bos = model.config().bos_id;
    if (!model.config().eos_ids.empty()) model.eos = model.config().eos_ids.front();
    model.notes = model.source.weights->notes();
    if (tokenizer) {
        take_tokenizer(*tokenizer, model);
    } else if (model.source.tokenizer_json) {
        const ModelText& file = *model.source.tokenizer_json;
        model.tokenizer = Tokenizer::from_json_text(file.text, file.origin);
        model.source.tokenizer_json.reset();  // read only here; some are large
    } else if (model.source.gguf_tokenizer) {
        model.tokenizer = gguf_tokenizer_of(model.source);
        if (model.source.gguf_tokenizer->bos) model.bos = model.source.gguf_tokenizer->bos;
        if (model.source.gguf_tokenizer->eos) model.eos = model.source.gguf_tokenizer->eos;
    }
    if (model.tokenizer) resolve_special_tokens(model);
    if (!model.source.chat_templates.empty())
        model.chat = ChatTemplate::parse_named(model.source.chat_templates, path.string());
    model.stop_ids = model.config().eos_ids;
    if (model.eos && std::find(model.stop_ids.begin(), model.stop_ids.end(), *model.eos) ==
                         model.stop_ids.end()) {
        model.stop_ids.push_back(*model.eos);
    }
    return model;
}

namespace {

/// Null if "auto" finds no GPU on any host.
std::unique_ptr<Backend> make_agreed_cuda(const BackendChoice& choice, Communicator& group,
                                          int threads) {
    if (choice.backend != "auto" && choice.backend != "cuda") return nullptr;
    const CudaPlatform platform = cuda_platform();
    const auto count = static_cast<std::int64_t>(platform.devices.size());
    const std::vector<std::int64_t> counts = group.all_gather_value(count);
    const bool anywhere = std::any_of(counts.begin(), counts.end(), [](auto n) { return n > 0; });
    if (choice.backend == "auto" && !anywhere) return nullptr;
    char host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    // Ranks compete for the GPUs that they see alike; Slurm can give each task its own.
    std::string visible = host;
    for (const CudaDevice& device : platform.devices) visible += " " + device.uuid;
    const Peers peers = peers_with_same(group, visible);
    std::unique_ptr<Backend> backend;
    agree(group, "taking a GPU", [&] {
        if (count == 0) {
            throw UserError(
                ExitCode::kUnavailable,
                fmt::format("no GPU to compute with: {}.\nUse placement.backend cpu, or "
                            "start where there are GPUs.",
                            platform.problem));
        }
        if (peers.count > count * choice.ranks_per_gpu) {
            throw UserError(
                ExitCode::kUnavailable,
                fmt::format("{} ranks on {}, which has {} GPU{}. Start as many ranks as GPUs, or "
                            "set placement.ranks_per_gpu (or placement.backend cpu).",
                            peers.count, host, count, count == 1 ? "" : "s"));
        }
        CudaOptions options;
        options.device = static_cast<int>(peers.place % count);
        options.sharing = static_cast<int>((peers.count - options.device + count - 1) / count);
        options.host_threads = threads;
        backend = make_cuda_backend(options);
    });
    const CudaDevice& mine = platform.devices[static_cast<std::size_t>(peers.place % count)];
    const std::vector<std::string> sets = group.all_gather_strings(
        fmt::format("{} {} {}", mine.name, backend->isa(), mine.multiprocessors));
    if (group.rank() == 0 &&
        std::adjacent_find(sets.begin(), sets.end(), std::not_equal_to<>()) != sets.end()) {
        std::fprintf(
            stderr,
            "warning: the ranks have GPUs of different kinds: the adapter's bits depend on "
            "which of them computes what\n");
    }
    return backend;
}

}  // namespace

std::unique_ptr<Backend> make_agreed_backend(const BackendChoice& choice, Communicator& group,
                                             int local_ranks) {
    if (choice.backend == "reference") return make_reference_backend();
    constexpr std::int64_t kMostThreads = 4096;
    if (choice.threads.value_or(1) > kMostThreads) {
        throw UserError(ExitCode::kUsage,
                        fmt::format("placement.threads is {} a rank, expected at most {}; without "
                                    "it every core of the host has one",
                                    *choice.threads, kMostThreads));
    }
    CpuOptions options;
    options.threads = static_cast<int>(choice.threads.value_or(usable_cores(group, local_ranks)));
    if (auto cuda = make_agreed_cuda(choice, group, options.threads)) return cuda;
    options.isa = choice.cpu_isa;
    std::string mine;
    for (std::string_view isa : cpu_isas()) {
        if (options.isa != "auto" || kernels_agree(isa)) {
            mine += std::string(isa) + " ";
        } else {
            std::fprintf(stderr,
                         "warning: rank %d: the %.*s kernels disagree with plain arithmetic on "
                         "this processor; not used\n",
                         group.rank(), static_cast<int>(isa.size()), isa.data());
        }
    }
    const std::vector<std::string> all = group.all_gather_strings(mine);
    if (options.isa == "auto") {
        for (std::string_view isa : cpu_isas()) {
            const std::string word = std::string(isa) + " ";
            const bool everywhere =
                std::all_of(all.begin(), all.end(), [&](const std::string& has) {
                    return has.starts_with(word) || has.find(" " + word) != std::string::npos;
                });
            if (everywhere) {
                options.isa = isa;
                break;
            }
        }
    }
    std::unique_ptr<Backend> backend;
    agree(group, "choosing the kernels", [&] { backend = make_cpu_backend(options); });
    return backend;
}

int run_ranks(
    const std::string& transport, int thread_ranks, bool gpus,
    const std::function<void(Communicator& group, int local_ranks, const Launch* launch)>& body) {
    auto print = [](const char* message) {
        std::fflush(stdout);
        std::fprintf(stderr, "qshard: %s\n", message);
        std::fflush(stderr);
    };
    if (transport == "threads" || thread_ranks > 1) {
        try {
            if (Launch::processes() > 1) {
                throw UserError(
                    ExitCode::kUsage,
                    fmt::format("ranks are to be threads of one process (placement.transport "
                                "threads, or --ranks), but a launcher started {} processes, each "
                                "of which would do the whole work. Start it without a launcher, or "
                                "let each process be a rank (transport auto).",
                                Launch::processes()));
            }
            run_threads(std::max(1, thread_ranks),
                        [&](Communicator& group) { body(group, group.count(), nullptr); });
        } catch (const std::exception& error) {
            const Failure failure = failure_of(error);
            print(failure.message.c_str());
            return static_cast<int>(failure.code);
        }
        return 0;
    }
    std::unique_ptr<Launch> launch;
    try {
        launch = std::make_unique<Launch>();
        const std::unique_ptr<Communicator> group = launch->make_communicator(transport, gpus);
        body(*group, launch->local_count(), launch.get());
    } catch (const AgreedError& error) {
        if (launch->rank() == 0) print(error.what());
        if (launch->count() > 1) launch->abort_together(static_cast<int>(error.code()));
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        const Failure failure = failure_of(error);
        const int code = static_cast<int>(failure.code);
        if (launch && launch->count() > 1) {
            print(fmt::format("rank {} on {}: {}", launch->rank(), launch->host(), failure.message)
                      .c_str());
            launch->abort(code);
        }
        print(failure.message.c_str());
        return code;
    }
    return 0;
}

std::size_t default_memory_limit(const Backend& backend, int local_ranks) {
    return backend.memory_bytes() > 0 ? backend.memory_bytes() : host_memory_limit(local_ranks);
}

}  // namespace qshard
