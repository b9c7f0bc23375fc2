#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <sys/prctl.h>

#include <algorithm>

#include "base/error.h"
#include "comm/backoff.h"

namespace qshard {
namespace {

constexpr std::size_t kSmallGather =
    16 << 10;  ///< bytes of one rank below which latency decides, not volume
constexpr std::size_t kPieceBytes = 1 << 20;  ///< what a ring or a tree forwards at a time
constexpr std::size_t kMessageBytes =
    64 << 20;                       ///< longest single message: far below MPI's int counts
constexpr std::size_t kWindow = 4;  ///< pieces in flight

void require(int status, const char* doing) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0;
    int kind = 0;
    MPI_Error_string(status, text, &length);
    MPI_Error_class(status, &kind);
    if (kind == MPI_ERR_TRUNCATE)
        throw BugError(fmt::format("{}: ranks disagree on bytes ({})", doing, text));
    throw SystemError(ExitCode::kPeerLost, fmt::format("MPI failed in {}: {}", doing, text));
}

/// The part of a block that piece number `piece` covers.
std::span<std::byte> piece_of(std::span<std::byte> block, std::size_t piece) {
    const std::size_t start = piece * kPieceBytes;
    return block.subspan(start, std::min(kPieceBytes, block.size() - start));
}

std::size_t pieces_in(std::size_t bytes) {
    return (bytes + kPieceBytes - 1) / kPieceBytes;
}

class MpiCommunicator final : public Communicator {
  public:
    MpiCommunicator(MPI_Comm comm, int rank, int count)
        : Communicator(rank, count, Mode::kThread),
          comm_(comm),
          exceptions_(std::uncaught_exceptions()) {}
    ~MpiCommunicator() override {
        close(std::uncaught_exceptions() > exceptions_);
        if (!broken()) MPI_Comm_free(&comm_);
    }
    std::string_view transport() const override { return "mpi"; }

  protected:
    void run(Operation& operation) override {
        thread_local const bool sharp [[maybe_unused]] = prctl(PR_SET_TIMERSLACK, 1000UL) == 0;
        tag_ = static_cast<int>(operation.sequence %
                                32768);  // 32767 is the least upper bound MPI allows
        switch (operation.kind) {
            case Operation::Kind::kAllGather:
                return all_gather(operation);
            case Operation::Kind::kExchange:
                return exchange(operation);
            case Operation::Kind::kBroadcast:
                return broadcast(operation);
        }
    }

  private:
    void all_gather(const Operation& operation);
    void ring(std::span<std::byte> all, std::size_t block_bytes);
    void exchange(const Operation& operation);
    void broadcast(const Operation& operation);
    MPI_Request send(std::span<const std::byte> bytes, int to) const;
    MPI_Request receive(std::span<std::byte> bytes, int from) const;
    bool test(MPI_Request& request, std::size_t expected_bytes, const char* doing) const;
    void finish(MPI_Request request, const char* doing) const;
    void finish_all(std::vector<MPI_Request>& requests,
                    const std::vector<std::size_t>& expected_bytes) const;
    void pause(Backoff& backoff, const char* doing) const {
        if (abandoned())
            throw SystemError(ExitCode::kPeerLost, fmt::format("{} was abandoned", doing));
        backoff.pause();
    }

    MPI_Comm comm_;
    int exceptions_;
    int tag_ = 0;
};

constexpr std::size_t kSent = static_cast<std::size_t>(-1);  ///< no byte count to expect: a send

MPI_Request MpiCommunicator::send(std::span<const std::byte> bytes, int to) const {
    MPI_Request request = MPI_REQUEST_NULL;
    require(MPI_Isend(bytes.data(), narrow<int>(bytes.size()), MPI_BYTE, to, tag_, comm_, &request),
            "a send");
    return request;
}

MPI_Request MpiCommunicator::receive(std::span<std::byte> bytes, int from) const {
    MPI_Request request = MPI_REQUEST_NULL;
    require(
        MPI_Irecv(bytes.data(), narrow<int>(bytes.size()), MPI_BYTE, from, tag_, comm_, &request),
        "a receive");
    return request;
}

void check_received(const MPI_Status& status, std::size_t expected_bytes) {
    if (expected_bytes == kSent) return;
    int got = 0;
    require(MPI_Get_count(&status, MPI_BYTE, &got), "a receive");
    if (static_cast<std::size_t>(got) != expected_bytes)
        throw BugError(fmt::format("expected {} bytes from rank {}, which sent {}", expected_bytes,
                                   status.MPI_SOURCE, got));
}

bool MpiCommunicator::test(MPI_Request& request, std::size_t expected_bytes,
                           const char* doing) const {
    int done = 0;
    MPI_Status status;
    require(MPI_Test(&request, &done, &status), doing);
    if (done) check_received(status, expected_bytes);
    return done != 0;
}

void MpiCommunicator::finish(MPI_Request request, const char* doing) const {
    Backoff backoff;
    while (!test(request, kSent, doing)) pause(backoff, doing);
}

void MpiCommunicator::finish_all(std::vector<MPI_Request>& requests,
                                 const std::vector<std::size_t>& expected_bytes) const {
    const int count = narrow<int>(requests.size());
    std::vector<int> which(requests.size());
    std::vector<MPI_Status> statuses(requests.size());
    Backoff backoff;
    for (int left = count; left > 0;) {
        int done = 0;
        const int status =
            MPI_Testsome(count, requests.data(), &done, which.data(), statuses.data());
        if (status != MPI_SUCCESS && status != MPI_ERR_IN_STATUS) require(status, "an exchange");
        for (int i = 0; i < done; ++i) {
            const auto at = static_cast<std::size_t>(i);
            if (status == MPI_ERR_IN_STATUS) require(statuses[at].MPI_ERROR, "an exchange");
            check_received(statuses[at], expected_bytes[static_cast<std::size_t>(which[at])]);
        }
        left -= done;
        if (done > 0) {
            backoff.reset();
        } else {
            pause(backoff, "an exchange");
        }
    }
}

void MpiCommunicator::all_gather(const Operation& operation) {
    const std::size_t bytes = operation.mine.size();
    if (bytes == 0) return;
    std::byte* place = operation.all.data() + static_cast<std::size_t>(rank()) * bytes;
    if (place != operation.mine.data()) std::memcpy(place, operation.mine.data(), bytes);
    if (count() == 1) return;
    if (bytes > kSmallGather) return ring(operation.all, bytes);
    MPI_Request request = MPI_REQUEST_NULL;
    require(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, operation.all.data(), narrow<int>(bytes),
                           MPI_BYTE, comm_, &request),
            "an all-gather");
    finish(request, "an all-gather");
}

/// Every block travels once around the ring in pieces; a piece is passed on as soon as it is here.
/// Of all routes this one crosses each link between two nodes the least, when the ranks of a node
/// are neighbours.
void MpiCommunicator::ring(std::span<std::byte> all, std::size_t block_bytes) {
    const auto ranks = static_cast<std::size_t>(count());
    const auto self = static_cast<std::size_t>(rank());
    const int right = (rank() + 1) % count();
    const int left = (rank() + count() - 1) % count();
    const std::size_t pieces = pieces_in(block_bytes);
    const std::size_t total = pieces * (ranks - 1);
    // Step s sends the block of the rank s places to the left and receives the one beyond it.
    const auto part = [&](std::size_t index, std::size_t places) {
        const std::size_t owner = (self + 2 * ranks - index / pieces - places) % ranks;
        return piece_of(all.subspan(owner * block_bytes, block_bytes), index % pieces);
    };
    MPI_Request sends[kWindow];
    MPI_Request receives[kWindow];
    std::size_t sent = 0, sending = 0, received = 0, receiving = 0;
    Backoff backoff;
    while (sent < total || received < total) {
        bool progress = false;
        for (; receiving < total && receiving < received + kWindow; ++receiving)
            receives[receiving % kWindow] = receive(part(receiving, 1), left);
        for (; sending < total && sending < sent + kWindow && sending < received + pieces;
             ++sending)
            sends[sending % kWindow] = send(part(sending, 0), right);
        for (; received < receiving &&
               test(receives[received % kWindow], part(received, 1).size(), "an all-gather");
             ++received)
            progress = true;
        for (; sent < sending && test(sends[sent % kWindow], kSent, "an all-gather"); ++sent)
            progress = true;
        if (progress) {
            backoff.reset();
        } else {
            pause(backoff, "an all-gather");
        }
    }
}

void MpiCommunicator::exchange(const Operation& operation) {
    copy_self_pieces(operation, rank());
    std::vector<MPI_Request> requests;
    std::vector<std::size_t> expected_bytes;
    const auto each_message = [](auto bytes, auto&& post) {
        for (; !bytes.empty(); bytes = bytes.subspan(std::min(kMessageBytes, bytes.size())))
            post(bytes.first(std::min(kMessageBytes, bytes.size())));
    };
    for (const RecvPiece& piece : operation.receives) {
        if (piece.from == rank()) continue;
        each_message(piece.bytes, [&](std::span<std::byte> bytes) {
            requests.push_back(receive(bytes, piece.from));
            expected_bytes.push_back(bytes.size());
        });
    }
    for (const SendPiece& piece : operation.sends) {
        if (piece.to == rank()) continue;
        each_message(piece.bytes, [&](std::span<const std::byte> bytes) {
            requests.push_back(send(bytes, piece.to));
            expected_bytes.push_back(kSent);
        });
    }
    finish_all(requests, expected_bytes);
}

void MpiCommunicator::broadcast(const Operation& operation) {
    if (count() == 1) return;
    const std::size_t pieces = pieces_in(operation.all.size());
    MPI_Request requests[kWindow];
    for (std::size_t started = 0, finished = 0; finished < pieces; ++finished) {
        for (; started < pieces && started < finished + kWindow; ++started) {
            const std::span<std::byte> part = piece_of(operation.all, started);
            require(MPI_Ibcast(part.data(), narrow<int>(part.size()), MPI_BYTE, operation.root,
                               comm_, &requests[started % kWindow]),
                    "a broadcast");
        }
        finish(requests[finished % kWindow], "a broadcast");
    }
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator() {
    int provided = 0;
    require(MPI_Query_thread(&provided), "looking up MPI's thread level");
    if (provided < MPI_THREAD_SERIALIZED)
        throw SystemError(ExitCode::kUnavailable,
                          "this MPI library cannot be called from a communication thread "
                          "(it has less than MPI_THREAD_SERIALIZED); use another MPI build");
    MPI_Comm comm = MPI_COMM_NULL;
    int rank = 0;
    int count = 0;
    require(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "making a communicator");
    require(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "making a communicator");
    require(MPI_Comm_rank(comm, &rank), "making a communicator");
    require(MPI_Comm_size(comm, &count), "making a communicator");
    return std::make_unique<MpiCommunicator>(comm, rank, count);
}

}  // namespace qshard
