#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/checkpoint/state.h"
#include "io/run/run_file.h"
#include "spec/adapter.h"
#include "spec/weights.h"

/// Whether a checkpoint belongs to a run, and what became of the run's settings since.
namespace qshard {

/// What decides a run beside its run file.
struct RunFacts {
    const RunFile* run = nullptr;
    const WeightReader* base = nullptr;
    const AdapterLayout* adapter = nullptr;
    std::string data_sha256, validation_sha256, tokenizer_sha256;
    std::string kernels;           ///< "cpu avx512"
    std::string base_fingerprint;  ///< known once the base is loaded
};

/// What a checkpoint records of it.
std::map<std::string, std::string> identity_of(const RunFacts& facts);

/// Compares the run file that the checkpoint records with this one, key by key as the table of keys
/// says, its digests, and its tensors by name and shape. UserError naming all that differs, with
/// both values, if it is another run's; else what a person should hear ("note: ...").
std::vector<std::string> check_same_run(const CheckpointFacts& checkpoint,
                                        const std::string& checkpoint_name, const RunFacts& mine);

}  // namespace qshard
