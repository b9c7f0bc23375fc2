#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace qshard {

/// One tensor inside the flat adapter vector.
struct NamedTensor {
    std::string
        name;  ///< exact PEFT key: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
    std::vector<std::int64_t> shape;  ///< 1 to 4 dimensions, row-major
    std::int64_t offset = 0;          ///< first element in the flat vector
    double initial_norm = 0;          ///< L2 norm before step 1; fill_update_norms() sets both
    double update_norm = 0;           ///< L2 norm of (now - before step 1)

    std::int64_t count() const;
    bool operator==(const NamedTensor&) const = default;
};

/// What is small of a checkpoint.
struct CheckpointFacts {
    std::int64_t step = 0;  ///< completed optimizer steps
    double epoch = 0;
    std::int64_t data_step = 0;  ///< position in the data: the next global batch
    std::uint64_t seed = 0;      ///< with data_step it determines every random number still to come
    std::int64_t nonfinite_steps = 0, nonfinite_in_a_row = 0;

    std::vector<NamedTensor> tensors;  ///< tile the adapter in order, without gaps
    std::string optimizer_name;
    std::map<std::string, double>
        counters;  ///< the trainer's own numbers: best evaluation loss, tokens seen...

    std::string adapter_config_json;  ///< PEFT's adapter_config.json, verbatim
    std::string run_yaml;             ///< the resolved run file, verbatim
    std::map<std::string, std::string>
        identity;  ///< base_sha256, data_sha256, run_sha256, engine_version...

    std::int64_t metrics_bytes = 0;  ///< length of metrics.jsonl to truncate to, and its digest
    std::string metrics_sha256;
    double loss = 0;      ///< of the last step
    std::string created;  ///< UTC, ISO 8601

    bool operator==(const CheckpointFacts&) const = default;
};

/// Everything a run needs to go on, independent of the number of ranks and of placement. The base
/// is not in it.
struct CheckpointState : CheckpointFacts {
    std::vector<float> adapter;
    std::map<std::string, std::vector<float>>
        optimizer;  ///< "exp_avg"...: each as long as `adapter`

    bool operator==(const CheckpointState&) const = default;
};

/// The identity that training promises, one for one adapter whatever file it is in: SHA-256 of its
/// values and of nothing else (no names, shapes, alpha or container), as little-endian fp32, tensor
/// after tensor in the order of AdapterLayout: embedding; of each layer the pairs (q, k, v, o,
/// gate, up, down, or experts and router), A before B before magnitudes, then biases; head. Each
/// tensor has the shape that checkpoints give it, row-major. Values of half precision count as the
/// fp32 they are equal to. layout_order() tells the order by the names, so the tensors of the state
/// may lie in any.
std::string adapter_sha256(const CheckpointState& state);
/// The same of values that lie in that order already, as a run's own do.
std::string adapter_sha256(std::span<const float> adapter);

/// Sets initial_norm and update_norm of every tensor; `initial` is the flat vector before step 1.
void fill_update_norms(CheckpointState& state, std::span<const float> initial);

/// What is wrong with the facts of an adapter of `elements` values (its tensors do not tile it, a
/// counter is negative), or "" if nothing is.
std::string problem_of(const CheckpointFacts& facts, std::int64_t elements);
/// The same of a whole state, whose vectors are all of one length.
std::string problem_of(const CheckpointState& state);

/// Now, in UTC: 2025-01-31T12:00:00Z.
std::string utc_now();

}  // namespace qshard
