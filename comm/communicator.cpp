#include "comm/communicator.h"

#include <algorithm>

#include "base/threads.h"

namespace qshard {

void Request::wait() {
    if (!operation_) return;
    if (!done()) {
        operation_->owner->waiters_.fetch_add(1, std::memory_order_relaxed);
        operation_->done.wait(0, std::memory_order_acquire);
        operation_->owner->waiters_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (operation_->error) std::rethrow_exception(operation_->error);
}

Request::~Request() {
    if (done() || std::uncaught_exceptions() == 0) return;
    operation_->owner->abandoned_ = true;
    operation_->owner->interrupt();
    operation_->done.wait(0, std::memory_order_acquire);
}

bool Request::done() const {
    return !operation_ || operation_->done.load(std::memory_order_acquire) != 0;
}

Communicator::~Communicator() = default;

void Communicator::check_rank(int rank) const {
    if (rank < 0 || rank >= count_)
        throw BugError(fmt::format("rank {} is outside a group of {}", rank, count_));
}

std::shared_ptr<Operation> Communicator::make_all_gather(std::span<const std::byte> mine,
                                                         std::span<std::byte> all) const {
    const auto count = static_cast<std::size_t>(count_);
    if (all.size() != count * mine.size())
        throw BugError(fmt::format("all_gather: {} ranks of {} bytes into {} bytes", count_,
                                   mine.size(), all.size()));
    const std::byte* place = all.data() + static_cast<std::size_t>(rank_) * mine.size();
    const bool apart =
        mine.data() + mine.size() <= all.data() || all.data() + all.size() <= mine.data();
    check(apart || mine.data() == place, "all_gather: mine lies in all, but not at its own place");
    auto operation = std::make_shared<Operation>();
    operation->kind = Operation::Kind::kAllGather;
    operation->mine = mine;
    operation->all = all;
    return operation;
}

std::shared_ptr<Operation> Communicator::make_broadcast(std::span<std::byte> bytes,
                                                        int root) const {
    check_rank(root);
    auto operation = std::make_shared<Operation>();
    operation->kind = Operation::Kind::kBroadcast;
    operation->all = bytes;
    operation->root = root;
    return operation;
}

Request Communicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                 std::function<void()> ready) {
    auto operation = make_all_gather(mine, all);
    operation->ready = std::move(ready);
    ++traffic_.all_gathers;
    traffic_.bytes_sent += all.size() - mine.size();
    traffic_.bytes_received += all.size() - mine.size();
    return enqueue(std::move(operation));
}

Request Communicator::exchange(std::vector<SendPiece> sends, std::vector<RecvPiece> receives) {
    for (const SendPiece& piece : sends) check_rank(piece.to);
    for (const RecvPiece& piece : receives) check_rank(piece.from);
    ++traffic_.exchanges;
    for (const SendPiece& piece : sends)
        if (piece.to != rank_) traffic_.bytes_sent += piece.bytes.size();
    for (const RecvPiece& piece : receives)
        if (piece.from != rank_) traffic_.bytes_received += piece.bytes.size();
    auto operation = std::make_shared<Operation>();
    operation->kind = Operation::Kind::kExchange;
    operation->sends = std::move(sends);
    operation->receives = std::move(receives);
    return enqueue(std::move(operation));
}

Request Communicator::broadcast(std::span<std::byte> bytes, int root) {
    auto operation = make_broadcast(bytes, root);
    ++traffic_.broadcasts;
    if (rank_ == root) {
        traffic_.bytes_sent += bytes.size() * static_cast<std::size_t>(count_ - 1);
    } else {
        traffic_.bytes_received += bytes.size();
    }
    return enqueue(std::move(operation));
}

void Communicator::control_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
    ++traffic_.controls;
    enqueue(make_all_gather(mine, all)).wait();
}

void Communicator::barrier() {
    all_gather_value(std::byte{1});
}

std::vector<std::string> Communicator::all_gather_strings(const std::string& mine) {
    const std::vector<std::uint64_t> bytes = all_gather_value<std::uint64_t>(mine.size());
    const std::size_t longest = *std::max_element(bytes.begin(), bytes.end());
    std::string padded = mine;
    padded.resize(longest);
    std::string all(longest * bytes.size(), '\0');
    control_gather(std::as_bytes(std::span(padded)), std::as_writable_bytes(std::span(all)));
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < bytes.size(); ++i)
        texts.push_back(all.substr(i * longest, bytes[i]));
    return texts;
}

void Communicator::broadcast_string(std::string& text, int root) {
    check_rank(root);
    std::uint64_t bytes = text.size();
    ++traffic_.controls;
    enqueue(make_broadcast(std::as_writable_bytes(std::span(&bytes, 1)), root)).wait();
    text.resize(bytes);
    ++traffic_.controls;
    enqueue(make_broadcast(std::as_writable_bytes(std::span(text)), root)).wait();
}

Traffic Communicator::traffic() const {
    return traffic_;
}

Request Communicator::enqueue(std::shared_ptr<Operation> operation) {
    operation->sequence = sequence_++;
    operation->owner = this;
    if (mode_ == Mode::kThread && !thread_.joinable())
        thread_ = start_thread("for communication", [this] { serve(); });
    Request request(operation);
    if (mode_ == Mode::kInline) {
        complete(*operation);
        return request;
    }
    {
        std::lock_guard lock(mutex_);
        check(!closing_, "an operation was issued on a closed communicator");
        queue_.push_back(std::move(operation));
    }
    changed_.notify_one();
    return request;
}

void Communicator::serve() {
    for (;;) {
        std::shared_ptr<Operation> operation;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
            if (queue_.empty()) return;
            operation = std::move(queue_.front());
            queue_.pop_front();
        }
        complete(*operation);
    }
}

void Communicator::complete(Operation& operation) {
    try {
        // The group is out of step once one operation failed: whatever follows could match the
        // wrong messages.
        if (first_error_) std::rethrow_exception(first_error_);
        if (abandoned())
            throw SystemError(ExitCode::kPeerLost, "a pending operation was abandoned");
        if (operation.ready) operation.ready();
        run(operation);
    } catch (...) {
        operation.error = std::current_exception();
        if (!first_error_) first_error_ = operation.error;
        broken_ = true;
    }
    operation.done.store(1, std::memory_order_release);
    operation.done.notify_all();
}

void Communicator::close(bool abandon) {
    if (abandon) {
        abandoned_ = true;
        interrupt();
    }
    {
        std::lock_guard lock(mutex_);
        closing_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
}

void copy_self_pieces(const Operation& operation, int self) {
    auto send = operation.sends.begin();
    const auto next_send = [&] {
        while (send != operation.sends.end() && send->to != self) ++send;
    };
    next_send();
    for (const RecvPiece& receive : operation.receives) {
        if (receive.from != self) continue;
        check(send != operation.sends.end() && send->bytes.size() == receive.bytes.size(),
              "exchange: the pieces a rank sends to itself are not those it receives from itself");
        if (!receive.bytes.empty())
            std::memcpy(receive.bytes.data(), send->bytes.data(), send->bytes.size());
        ++send;
        next_send();
    }
    check(send == operation.sends.end(),
          "exchange: a piece a rank sends to itself is not received");
}

namespace {

class SelfCommunicator final : public Communicator {
  public:
    SelfCommunicator() : Communicator(0, 1, Mode::kInline) {}
    std::string_view transport() const override { return "self"; }

  protected:
    void run(Operation& operation) override {
        if (operation.kind == Operation::Kind::kExchange) copy_self_pieces(operation, 0);
        if (operation.kind == Operation::Kind::kAllGather && !operation.mine.empty())
            std::memmove(operation.all.data(), operation.mine.data(), operation.mine.size());
    }
};

class PlanningCommunicator final : public Communicator {
  public:
    PlanningCommunicator(int rank, int count) : Communicator(rank, count, Mode::kInline) {}
    std::string_view transport() const override { return "to come"; }

  protected:
    void run(Operation& operation) override {
        check(operation.kind != Operation::Kind::kExchange, "ranks to come exchange nothing");
        if (operation.kind != Operation::Kind::kAllGather) return;
        const std::vector<std::byte> mine(operation.mine.begin(), operation.mine.end());
        for (std::size_t i = 0; i < operation.all.size(); i += mine.size())
            std::memcpy(operation.all.data() + i, mine.data(), mine.size());
    }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
    return std::make_unique<SelfCommunicator>();
}

std::unique_ptr<Communicator> make_planning_communicator(int rank, int count) {
    return std::make_unique<PlanningCommunicator>(rank, count);
}

}  // namespace qshard
