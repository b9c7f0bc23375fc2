#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

/// Moving bytes between the ranks of one group; what the bytes mean is nobody's business here.
namespace qshard {

/// One message of an exchange. Several pieces between one pair of ranks match in list order and
/// must agree in bytes.
struct SendPiece {
    int to = 0;
    std::span<const std::byte> bytes;
};
struct RecvPiece {
    int from = 0;
    std::span<std::byte> bytes;
};

class Communicator;

/// One collective operation as the communication thread sees it.
struct Operation {
    enum class Kind : std::uint8_t { kAllGather, kExchange, kBroadcast };
    Kind kind = Kind::kAllGather;
    std::uint64_t sequence = 0;       ///< position in the program order of the group
    std::span<const std::byte> mine;  ///< all-gather
    std::span<std::byte> all;         ///< all-gather, broadcast
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    int root = 0;
    std::function<void()> ready;  ///< or empty

    std::atomic<int> done{0};  ///< an int, because that waits on a futex of its own
    std::exception_ptr error;  ///< written before done
    Communicator* owner = nullptr;
};

/// Completion of one operation. Copies share it; a default-constructed one is complete. Buffers may
/// go once it is. Where an exception destroys one that is not complete, everything this rank issued
/// is abandoned first, so that buffers that are unwound with it are not written to; the group is
/// broken then.
class Request {
  public:
    Request() = default;
    ~Request();
    Request(const Request&) = default;
    Request& operator=(const Request&) = default;
    Request(Request&&) = default;
    Request& operator=(Request&&) = default;
    /// Blocks until the operation is complete; rethrows its error, every time it is called.
    void wait();
    bool done() const;

  private:
    friend class Communicator;
    explicit Request(std::shared_ptr<Operation> operation) : operation_(std::move(operation)) {}
    std::shared_ptr<Operation> operation_;
};

/// What this rank issued. Bytes are the payload this rank gave to, and got from, other ranks,
/// whatever route it took: an all-gather of b bytes sends and receives (count-1)*b, a broadcast
/// root sends (count-1)*b. The conveniences are counted as `controls` and in no byte count.
struct Traffic {
    std::uint64_t bytes_sent = 0;
    std::uint64_t bytes_received = 0;
    std::uint64_t all_gathers = 0;
    std::uint64_t exchanges = 0;
    std::uint64_t broadcasts = 0;
    std::uint64_t controls = 0;
};

/// A group of ranks. Every operation is collective: all ranks issue the same ones in the same
/// order. They are enqueued and run in that order by one communication thread per rank, so that
/// computation overlaps them. Buffers stay untouched until wait(). One thread of a rank issues
/// operations. After an error all later operations fail with it.
class Communicator {
  public:
    virtual ~Communicator();
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;

    int rank() const { return rank_; }
    int count() const { return count_; }
    virtual std::string_view transport() const = 0;  ///< "self", "threads", "mpi" or "nccl"
    /// Whether all_gather, exchange and broadcast take a GPU's memory too. Host memory always
    /// works.
    virtual bool takes_device_memory() const { return false; }

    /// all = the `mine` of every rank in rank order. all is count() * mine.size() bytes; mine is
    /// apart from all, or lies in it at this rank's own place. The same bytes on every rank.
    /// `ready`, if given, returns when `all` may be written; the communication thread calls it
    /// first.
    Request all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                       std::function<void()> ready = {});
    /// Sparse all-to-all; pieces to self are copied, pieces of zero bytes are allowed. Sends and
    /// receives do not overlap.
    Request exchange(std::vector<SendPiece> sends, std::vector<RecvPiece> receives);
    /// The bytes of `root` everywhere; the same length on every rank.
    Request broadcast(std::span<std::byte> bytes, int root);

    // Small blocking conveniences.
    void barrier();
    template <class T>
    std::vector<T> all_gather_value(const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        std::vector<T> all(static_cast<std::size_t>(count_));
        control_gather(std::as_bytes(std::span(&value, 1)), std::as_writable_bytes(std::span(all)));
        return all;
    }
    std::vector<std::string> all_gather_strings(const std::string& mine);
    void broadcast_string(std::string& text, int root);

    Traffic traffic() const;
    std::uint64_t bytes_sent() const { return traffic().bytes_sent; }
    std::uint64_t bytes_received() const { return traffic().bytes_received; }
    /// Whether a thread of this rank is blocked in Request::wait(). Callable from any thread.
    bool waiting() const { return waiters_.load(std::memory_order_relaxed) > 0; }

  protected:
    /// kInline runs every operation where it is issued; kThread starts the communication thread
    /// with the first one.
    enum class Mode { kInline, kThread };
    Communicator(int rank, int count, Mode mode) : rank_(rank), count_(count), mode_(mode) {}
    /// One operation from start to end; on the communication thread.
    virtual void run(Operation& operation) = 0;
    /// Ends the communication thread; derived destructors call it first. With `abandon`, operations
    /// that are not complete end with SystemError(kPeerLost), the running one as soon as run()
    /// looks at abandoned().
    void close(bool abandon);
    /// Makes a run() that waits for peers end soon, after abandoned() became true.
    virtual void interrupt() {}
    bool abandoned() const { return abandoned_.load(); }
    bool broken() const { return broken_.load(); }

  private:
    friend class Request;
    Request enqueue(std::shared_ptr<Operation> operation);
    void control_gather(std::span<const std::byte> mine, std::span<std::byte> all);
    std::shared_ptr<Operation> make_all_gather(std::span<const std::byte> mine,
                                               std::span<std::byte> all) const;
    std::shared_ptr<Operation> make_broadcast(std::span<std::byte> bytes, int root) const;
    void check_rank(int rank) const;
    void serve();
    void complete(Operation& operation);

    const int rank_;
    const int count_;
    const Mode mode_;
    Traffic traffic_;  ///< issuing thread only
    std::uint64_t sequence_ = 0;
    std::atomic<int> waiters_{0};
    std::atomic<bool> abandoned_{false};
    std::atomic<bool> broken_{false};
    std::exception_ptr first_error_;  ///< communication thread only
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::shared_ptr<Operation>> queue_;
    bool closing_ = false;
    std::thread thread_;
};

/// The group of one rank: operations are copies, done when the call returns.
std::unique_ptr<Communicator> make_self_communicator();

/// A group to plan for: `count` ranks of which only this one is here, and the others answer what it
/// does. exchange() is a BugError.
std::unique_ptr<Communicator> make_planning_communicator(int rank, int count);

/// Copies the pieces an exchange sends to `self` into those it receives from itself. BugError if
/// they do not match.
void copy_self_pieces(const Operation& operation, int self);

}  // namespace qshard
