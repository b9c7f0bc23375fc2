#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "comm/launch.h"
#include "io/chat/template.h"
#include "io/formats/model_reader.h"
#include "io/tokenizer/tokenizer.h"
#include "main/memory_limit.h"

/// What the programs share: a model with its text side, and the arithmetic of this rank.
namespace qshard {

/// A model's files with tokenizer and chat template, as far as it has them.
struct TextModel {
    ModelSource source;
    std::optional<Tokenizer> tokenizer;
    std::optional<ChatTemplate> chat;
    std::optional<std::int32_t> bos, eos;
    bool add_bos = false;                ///< what "add_bos: auto" means for this tokenizer
    std::vector<std::int32_t> stop_ids;  ///< end an answer: eos and the model's own list
    boost::json::object chat_variables;  ///< bos_token, eos_token, unk_token, pad_token
    std::vector<std::string> notes;      ///< what a user should know of the files, a line each

    const ModelConfig& config() const { return source.weights->config(); }
    /// The tokenizer; UserError if the model has none.
    const Tokenizer& text() const;
    /// UserError naming `place` if the embedding lacks one of these ids.
    void check_ids(std::span<const std::int32_t> ids, const std::string& place) const;
};

/// Prints each as "note: ..." to stderr, if this rank speaks.
void print_notes(const std::vector<std::string>& notes, bool speaks);

/// Opens a model; `tokenizer` (a tokenizer.json or its folder) replaces the model's own, with the
/// tokenizer_config.json beside it if there is one.
TextModel open_text_model(const std::filesystem::path& path,
                          const std::optional<std::string>& tokenizer);

struct BackendChoice {
    std::string backend = "auto";  ///< auto | cpu | cuda | reference
    std::string cpu_isa = "auto";
    std::optional<std::int64_t> threads;  ///< absent: the rank's usable_cores()
    std::int64_t ranks_per_gpu = 1;
};
/// This rank's backend. With "auto" all ranks take GPUs if any host has some, else the best kernel
/// set that each of them has. UserError(kUnavailable) if one lacks the set asked for, or a host has
/// fewer GPUs than its ranks need. Collective.
std::unique_ptr<Backend> make_agreed_backend(const BackendChoice& choice, Communicator& group,
                                             int local_ranks);

/// Runs `body` once per rank: under mpirun or srun over MPI, else alone, or on `thread_ranks` > 1
/// threads. `gpus`: the ranks will compute on GPUs where there are some, so "auto" prefers NCCL.
/// Errors end every rank; the message is printed once ("qshard: ..."). Returns the exit code.
int run_ranks(
    const std::string& transport, int thread_ranks, bool gpus,
    const std::function<void(Communicator& group, int local_ranks, const Launch* launch)>& body);
/// Whether a run with placement.backend `backend` computes on GPUs where there are some.
inline bool wants_gpus(const std::string& backend) {
    return backend == "auto" || backend == "cuda";
}

/// Memory this process may use when nothing says otherwise: what the backend's device has, else
/// the host's.
std::size_t default_memory_limit(const Backend& backend, int local_ranks);

}  // namespace qshard
