#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "comm/communicator.h"

namespace qshard {

/// An error that every rank of the group throws with the same message and code: rank 0 prints it
/// for all.
class AgreedError : public Error {
  public:
    using Error::Error;
};

/// Runs `body` on this rank, then learns how it ended on the others. If it failed anywhere, every
/// rank throws the same AgreedError: message and code of the lowest failing rank, with "rank R on
/// HOST: " before it when that is not rank 0. `section` names what was being done where an error
/// says nothing itself. Collective; inside `body`, collectives only where no single
/// rank can have failed before them. If the group itself breaks, what is thrown is not an
/// AgreedError: the error of this rank, or SystemError(kPeerLost).
void agree(Communicator& communicator, const std::string& section,
           const std::function<void()>& body);

/// This rank among those that gave the same text ("the same host and GPUs").
struct Peers {
    int place = 0;  ///< how many of them have a lower rank
    int count = 1;
};
/// Collective.
Peers peers_with_same(Communicator& communicator, const std::string& text);

}  // namespace qshard
