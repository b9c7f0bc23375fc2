#pragma once

#include "comm/communicator.h"

namespace qshard {

/// The group of all MPI processes. MPI must be initialised with MPI_THREAD_SERIALIZED or better,
/// and no other thread may call MPI while the communicator lives. Collective. Destroyed normally it
/// completes what was issued; destroyed by an exception it abandons it, and MPI can then only be
/// aborted.
std::unique_ptr<Communicator> make_mpi_communicator();

}  // namespace qshard
