#pragma once

#include <functional>

#include "comm/communicator.h"

namespace qshard {

/// Runs `body` on `ranks` threads of this process, one rank each, and returns when all have ended.
/// When one rank throws, or returns while others still wait for it, the waits of the others throw
/// SystemError(kPeerLost); then the first root cause is rethrown here. A rank that only computes is
/// ended at its next wait.
void run_threads(int ranks, const std::function<void(Communicator&)>& body);

}  // namespace qshard
