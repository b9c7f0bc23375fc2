#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace qshard::test {

/// `inner` over memory that is mapped without access and opened only while one of its operations
/// runs: whoever touches it from outside, as code may do that was only ever run on CPUs, is ended
/// by a segmentation fault. It asks for batches of `batch_rows`.
std::unique_ptr<Backend> make_guarded_backend(std::unique_ptr<Backend> inner,
                                              std::int64_t batch_rows);

}  // namespace qshard::test
