#include "main/version.h"

#include <fmt/format.h>

#include <boost/version.hpp>

#include "backend/cuda/cuda.h"
#include "comm/nccl_communicator.h"

namespace qshard {

std::string engine_version() {
    return QSHARD_VERSION "+" QSHARD_COMMIT;
}

std::string version_text() {
    std::string isas;
    for (std::string_view isa : cpu_isas())
        isas += fmt::format("{}{}", isas.empty() ? "" : ", ", isa);
    return fmt::format(
        "qshard {} (commit {})\ncompiler: {}\nlibraries: MPI {}, HDF5 {}, Boost {}.{}\nCPU kernels "
        "here: {}\n{}",
        QSHARD_VERSION, QSHARD_COMMIT, __VERSION__, QSHARD_MPI_VERSION, QSHARD_HDF5_VERSION,
        BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, isas,
        cuda_build() + (nccl_build().empty() ? "" : ", " + nccl_build()));
}

}  // namespace qshard
