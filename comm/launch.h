#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace qshard {

/// This process as the launcher started it: initialises MPI under mpirun or srun and touches MPI
/// not at all without them. Make it first in main() and let it outlive the handler that prints
/// errors, which ends the process by abort() or abort_together(). Destroyed normally it finalises
/// MPI (collective).
class Launch {
  public:
    /// UserError(kUsage) if more processes were started than find each other: by srun without
    /// --mpi=pmix, or by the mpirun of another MPI library.
    Launch();
    ~Launch();
    Launch(const Launch&) = delete;
    Launch& operator=(const Launch&) = delete;

    /// Whether the environment says that a launcher of MPI processes started this one.
    static bool under_launcher();
    /// Whether the ranks find each other by a file, for NCCL without MPI: QSHARD_RANK, QSHARD_WORLD
    /// and QSHARD_ID_FILE, a file that does not exist yet on a file system they share.
    static bool by_file();
    /// How many processes the launcher says that it started, this one among them; 1 without one.
    static int processes();
    /// The MPI library this program runs with, in its own words ("Open MPI v4.1.4, ..."). Needs no
    /// initialisation.
    static std::string library();

    int rank() const { return rank_; }
    int count() const { return count_; }
    int local_rank() const { return local_rank_; }    ///< among the ranks of this host
    int local_count() const { return local_count_; }  ///< ranks of this host
    const std::string& host() const { return host_; }

    /// The group of all ranks by `transport`: "auto" is "self" for one, else "nccl" if `gpus` are
    /// to be used and every rank can have one of its own, else "mpi". Once; must be destroyed
    /// before this object. UserError if the ranks were not started for the transport.
    std::unique_ptr<Communicator> make_communicator(const std::string& transport = "auto",
                                                    bool gpus = false) const;

    /// Ends every rank at once with `code` (70 if it is not in 1..125). For an error of this rank
    /// alone; from any thread.
    [[noreturn]] void abort(int code) const noexcept;
    /// The same for an error that all ranks agreed on: the others give rank 0 two seconds to print
    /// it first.
    [[noreturn]] void abort_together(int code) const noexcept;

  private:
    /// NCCL's group; its id goes over `start`.
    std::unique_ptr<Communicator> make_nccl(Communicator& start) const;

    bool mpi_ = false;
    int rank_ = 0;
    int count_ = 1;
    int local_rank_ = 0;
    int local_count_ = 1;
    std::string host_;
};

}  // namespace qshard
