#include "base/error.h"
#include "comm/nccl_communicator.h"

namespace qshard {

std::string nccl_build() {
    return {};
}

std::vector<NcclDevice> nccl_devices() {
    return {};
}

std::string make_nccl_id() {
    throw UserError(ExitCode::kUnavailable,
                    "placement.transport is nccl, but this qshard was built without CUDA. Build it "
                    "with cmake -DQSHARD_CUDA=ON, or use transport mpi.");
}

std::unique_ptr<Communicator> make_nccl_communicator(const std::string&, int, int, int) {
    throw UserError(ExitCode::kUnavailable, "this qshard was built without CUDA and NCCL");
}

void abandon_nccl() noexcept {}

}  // namespace qshard
