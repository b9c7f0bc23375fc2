#pragma once

#include <fmt/core.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

/// Errors and exit codes. A message says, in one to four lines: what was being done, what was
/// expected, what was found, what to try. The program prefix ("qshard: ") is added where the
/// message is printed, not here.
namespace qshard {

/// Documented exit codes of every program; always 1..125, because MPI_Abort(256) would make mpirun
/// return 0.
enum class ExitCode : int {
    kOk = 0,
    kUsage = 64,          ///< usage or run-file error
    kBadInput = 65,       ///< malformed or refused input: model, data, checkpoint
    kUnavailable = 69,    ///< something needed is absent: GPU, library, peer at start, memory
    kBug = 70,            ///< numerical stop, or a failed check
    kCannotCreate = 73,   ///< an output file or folder cannot be created
    kIo = 74,             ///< I/O error, disk full
    kPeerLost = 75,       ///< a peer is lost or stuck: requeue
    kRanksDisagree = 76,  ///< ranks disagree on a hash: requeue, other node
    kPreempted = 85,      ///< checkpoint saved on a signal: please requeue
    kNoProgress = 93,     ///< no progress in three starts: do not requeue
};

/// Base of all qshard errors: a printable message and the exit code it leads to.
class Error : public std::runtime_error {
  public:
    Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ExitCode code() const { return code_; }

  private:
    ExitCode code_;
};

/// The user can mend it: bad key, file, shape. kBadInput unless said otherwise.
class UserError : public Error {
  public:
    explicit UserError(const std::string& message) : Error(ExitCode::kBadInput, message) {}
    UserError(ExitCode code, const std::string& message) : Error(code, message) {}
};

/// The machine failed: CUDA, NCCL, MPI, HDF5, disk. kIo unless said otherwise.
class SystemError : public Error {
  public:
    explicit SystemError(const std::string& message) : Error(ExitCode::kIo, message) {}
    SystemError(ExitCode code, const std::string& message) : Error(code, message) {}
};

/// A check of our own failed.
class BugError : public Error {
  public:
    explicit BugError(const std::string& message) : Error(ExitCode::kBug, message) {}
};

/// What any exception means to the user: out of memory is kUnavailable, what the system refuses
/// kIo (a thread: kUnavailable), what is no error of ours a bug.
struct Failure {
    ExitCode code;
    std::string message;
};
Failure failure_of(const std::exception& error);

/// Throws BugError naming the place if `holds` is false. For invariants of our own, never for
/// input.
inline void check(bool holds, const char* what,
                  std::source_location where = std::source_location::current()) {
    if (!holds) {
        throw BugError(
            fmt::format("check failed at {}:{}: {}", where.file_name(), where.line(), what));
    }
}

/// Converts between integer types; BugError if the value does not fit.
template <class To, class From>
To narrow(From value, std::source_location where = std::source_location::current()) {
    if (!std::in_range<To>(value)) check(false, "integer does not fit its type", where);
    return static_cast<To>(value);
}

}  // namespace qshard
