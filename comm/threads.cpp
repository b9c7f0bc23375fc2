#include "comm/threads.h"

#include "base/threads.h"

namespace qshard {
namespace {

/// What the ranks of one group share: the operation each of them is in, a barrier, and the first
/// failure.
class ThreadGroup {
  public:
    explicit ThreadGroup(int ranks) : operations_(static_cast<std::size_t>(ranks)) {}

    void publish(int rank, const Operation* operation) {
        operations_[static_cast<std::size_t>(rank)] = operation;
    }
    const Operation& of(int rank) const { return *operations_[static_cast<std::size_t>(rank)]; }

    /// Returns when every rank has arrived; SystemError(kPeerLost) once that cannot happen any
    /// more. With `sure`, for ranks that are known to arrive, it always returns.
    void meet(bool sure) {
        std::unique_lock lock(mutex_);
        const std::uint64_t round = round_;
        if (++arrived_ == operations_.size()) {
            arrived_ = 0;
            ++round_;
            changed_.notify_all();
            return;
        }
        changed_.wait(lock,
                      [&] { return round_ != round || (!sure && (failed_ >= 0 || left_ >= 0)); });
        if (round_ != round) return;
        --arrived_;
        if (failed_ >= 0) throw SystemError(ExitCode::kPeerLost, why_);
        throw SystemError(ExitCode::kPeerLost,
                          fmt::format("rank {} left the group while others wait for it", left_));
    }

    /// The error now being handled ends the group, unless another one did before.
    void fail(int rank) {
        std::lock_guard lock(mutex_);
        if (!cause_ || rank == interrupted_) {
            // A victim may be here before the error it suffers from.
            if (rank == interrupted_) interrupted_ = -1;
            failed_ = rank;
            cause_ = std::current_exception();
            why_ = fmt::format("rank {} ended with an error", rank);
            try {
                throw;
            } catch (const std::exception& error) {
                why_ += fmt::format(": {}", error.what());
            } catch (...) {
            }
        }
        changed_.notify_all();
    }

    /// The same for an error that is still on its way to fail().
    void interrupt(int rank) {
        std::lock_guard lock(mutex_);
        if (failed_ < 0) {
            failed_ = interrupted_ = rank;
            why_ = fmt::format("rank {} ended with an error", rank);
        }
        changed_.notify_all();
    }

    void leave(int rank) {
        std::lock_guard lock(mutex_);
        left_ = rank;
        changed_.notify_all();
    }

    std::exception_ptr cause() {
        std::lock_guard lock(mutex_);
        return cause_;
    }

  private:
    std::vector<const Operation*> operations_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t arrived_ = 0;
    std::uint64_t round_ = 0;
    int left_ = -1;
    int failed_ = -1;       ///< the rank whose error ended the group
    int interrupted_ = -1;  ///< the same, until fail() brings the error itself
    std::exception_ptr cause_;
    std::string why_;
};

class ThreadCommunicator final : public Communicator {
  public:
    ThreadCommunicator(ThreadGroup& group, int rank, int count)
        : Communicator(rank, count, Mode::kThread), group_(group) {}
    ~ThreadCommunicator() override { close(false); }
    std::string_view transport() const override { return "threads"; }
    /// Completes what was issued, as long as the group is whole.
    void drain() { close(false); }

  protected:
    void run(Operation& operation) override {
        group_.publish(rank(), &operation);
        group_.meet(false);
        std::exception_ptr error;
        try {
            copy(operation);
        } catch (...) {
            group_.fail(rank());
            error = std::current_exception();
        }
        // All came here, so all will leave; before that, others may still read this rank's buffers.
        group_.meet(true);
        if (error) std::rethrow_exception(error);
    }
    void interrupt() override { group_.interrupt(rank()); }

  private:
    void copy(Operation& operation) const {
        for (int peer = 0; peer < count(); ++peer)
            check(group_.of(peer).kind == operation.kind, "ranks issued different operations");
        switch (operation.kind) {
            case Operation::Kind::kAllGather:
                return all_gather(operation);
            case Operation::Kind::kExchange:
                return exchange(operation);
            case Operation::Kind::kBroadcast: {
                const Operation& root = group_.of(operation.root);
                check(root.root == operation.root && root.all.size() == operation.all.size(),
                      "broadcast: ranks disagree on root or bytes");
                if (operation.root != rank() && !root.all.empty())
                    std::memcpy(operation.all.data(), root.all.data(), root.all.size());
            }
        }
    }

    void all_gather(Operation& operation) const {
        const std::size_t bytes = operation.mine.size();
        for (int peer = 0; peer < count(); ++peer) {
            const Operation& other = group_.of(peer);
            check(other.mine.size() == bytes, "all_gather: ranks disagree on bytes");
            std::byte* place = operation.all.data() + static_cast<std::size_t>(peer) * bytes;
            if (bytes > 0 && place != other.mine.data())
                std::memcpy(place, other.mine.data(), bytes);
        }
    }

    void exchange(Operation& operation) const {
        std::vector<std::size_t> cursor(static_cast<std::size_t>(count()), 0);
        for (const RecvPiece& receive : operation.receives) {
            const std::vector<SendPiece>& sends = group_.of(receive.from).sends;
            std::size_t& next = cursor[static_cast<std::size_t>(receive.from)];
            while (next < sends.size() && sends[next].to != rank()) ++next;
            if (next == sends.size() || sends[next].bytes.size() != receive.bytes.size())
                throw BugError(fmt::format(
                    "exchange: rank {} expects {} bytes from rank {}, which sends {}", rank(),
                    receive.bytes.size(), receive.from,
                    next == sends.size() ? "nothing more"
                                         : fmt::format("{}", sends[next].bytes.size())));
            if (!receive.bytes.empty())
                std::memcpy(receive.bytes.data(), sends[next].bytes.data(), receive.bytes.size());
            ++next;
        }
    }

    ThreadGroup& group_;
};

void run_rank(ThreadGroup& group, int rank, int count,
              const std::function<void(Communicator&)>& body) {
    ThreadCommunicator communicator(group, rank, count);
    try {
        body(communicator);
        communicator.drain();
        group.leave(rank);
    } catch (...) {
        group.fail(rank);  // ends what the destructor waits for
    }
}

}  // namespace

void run_threads(int ranks, const std::function<void(Communicator&)>& body) {
    check(ranks >= 1, "run_threads needs at least one rank");
    ThreadGroup group(ranks);
    std::vector<std::thread> threads;
    try {
        for (int rank = 0; rank < ranks; ++rank) {
            threads.push_back(start_thread(fmt::format("(rank {} of {})", rank, ranks),
                                           [&, rank] { run_rank(group, rank, ranks, body); }));
        }
    } catch (...) {
        group.fail(static_cast<int>(threads.size()));  // ends those that wait for it
    }
    for (std::thread& thread : threads) thread.join();
    if (const std::exception_ptr cause = group.cause()) std::rethrow_exception(cause);
}

}  // namespace qshard
