#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "main/session.h"

namespace qshard {

/// Flags of `qshard bench step` and `bench gemm`.
struct BenchArguments {
    std::optional<std::string> model, shape;
    BackendChoice backend;
    std::string compute_dtype = "bfloat16", quantization = "nf4", placement = "replicated",
                recompute = "auto";
    std::int64_t max_length = 512, micro_batch_size = 2, r = 16, steps = 5, slots = 0;
    bool json = false;

    DType compute() const { return dtype_named(compute_dtype).value(); }
};

/// The model's own weights, or random ones of a shape.
std::unique_ptr<WeightReader> bench_weights(const BenchArguments& arguments);

/// Times whole training steps; rank 0 prints. Collective.
void bench_step(const BenchArguments& arguments, Communicator& group, int local_ranks);

/// Times the products of a training step one by one.
void bench_gemm(const BenchArguments& arguments);

}  // namespace qshard
