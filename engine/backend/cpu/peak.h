#pragma once

#include "backend/backend.h"

namespace qshard {

/// FLOP/s of a large bf16 matrix product through the backend (`side` cubed), best of several within
/// about 0.2 s: what a step's speed is a share of.
double measure_peak_flops(Backend& backend, std::int64_t side = 1024);

/// fp32 multiply-adds that never leave the registers, on all threads of a CPU backend for some
/// milliseconds; returns the FLOPs done. BugError for another backend.
double spin_multiply_adds(Backend& backend);

}  // namespace qshard
