#include "comm/nccl_communicator.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "comm/backoff.h"

namespace qshard {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kStartLimit{60}, kAbortLimit{5};
constexpr std::size_t kScratchBytes = std::size_t{64} << 20;  ///< for buffers of the host

void require_cuda(cudaError_t error, const char* doing) {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    throw SystemError(error == cudaErrorMemoryAllocation ? ExitCode::kUnavailable : ExitCode::kIo,
                      fmt::format("CUDA failed in {}: {}", doing, cudaGetErrorString(error)));
}

/// What NCCL says of a failure; `comm` may be null.
std::string reason(ncclComm_t comm, ncclResult_t result) {
    const char* last = ncclGetLastError(comm);
    const bool more = last != nullptr && *last != '\0';
    return more ? fmt::format("{} ({})", ncclGetErrorString(result), last)
                : std::string(ncclGetErrorString(result));
}

bool on_device(const void* pointer) {
    cudaPointerAttributes attributes{};
    if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return attributes.type == cudaMemoryTypeDevice;
}

/// Set while the process is about to end; the communication thread answers when it has let go.
std::atomic<bool> ending{false};
std::atomic<int> running{0};

class NcclCommunicator final : public Communicator {
  public:
    NcclCommunicator(const std::string& id, int rank, int count, int device)
        : Communicator(rank, count, Mode::kThread),
          device_(device),
          exceptions_(std::uncaught_exceptions()) {
        require_cuda(cudaSetDevice(device), "opening the device");
        require_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
        start(id);
    }
    ~NcclCommunicator() override {
        close(std::uncaught_exceptions() > exceptions_);
        if (comm_ == nullptr) {
            // has been aborted
        } else if (broken() || abandoned() || ncclCommFinalize(comm_) == ncclInvalidUsage) {
            abort();
        } else {
            finish_calls_quietly();
            ncclCommDestroy(comm_);
        }
        if (cudaStreamQuery(stream_) == cudaErrorNotReady) return;  // freeing memory would wait
        cudaFree(scratch_);
        cudaStreamDestroy(stream_);
    }
    std::string_view transport() const override { return "nccl"; }
    bool takes_device_memory() const override { return true; }

  protected:
    void run(Operation& operation) override;

  private:
    /// A buffer as NCCL sees it: where it is, or its copy in device memory. An operation's buffers
    /// are the host's on all ranks or on none.
    struct Buffer {
        std::span<const std::byte> from;
        std::byte* device = nullptr;
        bool copied = false;
    };

    void start(const std::string& id);
    void require_nccl(ncclResult_t result, const char* doing) const;
    void finish_calls_quietly();
    void abort() noexcept;
    void poll(const char* doing, Backoff& backoff);
    void finish_calls(const char* doing);
    void finish_stream(const char* doing);
    [[noreturn]] void give_up(const std::string& why);

    std::byte* reserve(std::size_t bytes);
    void release_much();
    Buffer buffer(std::span<const std::byte> bytes, std::byte*& next) const;
    void copy_in(const Buffer& buffer);
    void copy_out(std::span<const Buffer> buffers, const char* doing);
    void all_gather(const Operation& operation);
    void all_gather_to_host(const Operation& operation);
    void exchange(const Operation& operation);
    void broadcast(const Operation& operation);

    const int device_;
    const int exceptions_;
    cudaStream_t stream_ = nullptr;
    ncclComm_t comm_ = nullptr;
    std::byte* scratch_ = nullptr;
    std::size_t scratch_bytes_ = 0;
};

void NcclCommunicator::start(const std::string& id) {
    ncclUniqueId unique{};
    check(id.size() == sizeof unique, "an NCCL id has its length");
    std::memcpy(&unique, id.data(), sizeof unique);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    require_nccl(ncclCommInitRankConfig(&comm_, count(), unique, rank(), &config), "starting");
    const Clock::time_point begin = Clock::now();
    Backoff backoff;
    for (ncclResult_t state = ncclInProgress; state == ncclInProgress; backoff.pause()) {
        const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
        if (asked != ncclSuccess) state = asked;
        const bool late = Clock::now() - begin > kStartLimit;
        if (state == ncclSuccess || (state == ncclInProgress && !late)) continue;
        const std::string why = reason(comm_, state);
        abort();
        throw SystemError(
            ExitCode::kUnavailable,
            late ? fmt::format("NCCL's {} ranks did not find each other within {} s. Try "
                               "NCCL_SOCKET_IFNAME and NCCL_DEBUG=INFO.",
                               count(), kStartLimit.count())
                 : fmt::format("NCCL could not start: {} (NCCL_DEBUG=INFO says more)", why));
    }
}

/// ncclInProgress is no failure: communicators do not block.
void NcclCommunicator::require_nccl(ncclResult_t result, const char* doing) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    throw SystemError(ExitCode::kPeerLost,
                      fmt::format("NCCL failed in {}: {}", doing, reason(comm_, result)));
}

/// Ends what is on its way, so that buffers may go. Not by the calling thread: NCCL's abort waits
/// until the other ranks of this host abort, too, who may first want to hear why.
void NcclCommunicator::abort() noexcept {
    std::thread([comm = comm_] { ncclCommAbort(comm); }).detach();
    comm_ = nullptr;
    Backoff backoff;
    const Clock::time_point begin = Clock::now();
    while (cudaStreamQuery(stream_) == cudaErrorNotReady && Clock::now() - begin < kAbortLimit)
        backoff.pause();
}

void NcclCommunicator::give_up(const std::string& why) {
    abort();
    throw SystemError(ExitCode::kPeerLost, why);
}

void NcclCommunicator::poll(const char* doing, Backoff& backoff) {
    ncclResult_t state = ncclSuccess;
    ncclCommGetAsyncError(comm_, &state);
    if (state != ncclSuccess && state != ncclInProgress)
        give_up(fmt::format("NCCL failed in {}: {}", doing, reason(comm_, state)));
    if (abandoned() || ending.load()) give_up(fmt::format("{} was abandoned", doing));
    backoff.pause();
}

/// Waits until NCCL has taken the calls issued.
void NcclCommunicator::finish_calls(const char* doing) {
    Backoff backoff;
    for (;;) {
        ncclResult_t state = ncclSuccess;
        require_nccl(ncclCommGetAsyncError(comm_, &state), doing);
        if (state == ncclSuccess) return;
        poll(doing, backoff);
    }
}

void NcclCommunicator::finish_calls_quietly() {
    Backoff backoff;
    const Clock::time_point begin = Clock::now();
    for (ncclResult_t state = ncclInProgress;
         state == ncclInProgress && Clock::now() - begin < kStartLimit; backoff.pause()) {
        if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return;
    }
}

void NcclCommunicator::finish_stream(const char* doing) {
    Backoff backoff;
    for (;;) {
        const cudaError_t state = cudaStreamQuery(stream_);
        if (state == cudaSuccess) return;
        if (state != cudaErrorNotReady) require_cuda(state, doing);
        poll(doing, backoff);
    }
}

std::byte* NcclCommunicator::reserve(std::size_t bytes) {
    if (bytes > scratch_bytes_) {
        cudaFree(scratch_);
        scratch_ = nullptr;
        scratch_bytes_ = 0;
        void* pointer = nullptr;
        require_cuda(cudaMalloc(&pointer, bytes), "taking memory for host buffers");
        scratch_ = static_cast<std::byte*>(pointer);
        scratch_bytes_ = bytes;
    }
    return scratch_;
}

/// Memory for large exchanges of the host's buffers is the arithmetic's otherwise.
void NcclCommunicator::release_much() {
    if (scratch_bytes_ <= kScratchBytes) return;
    cudaFree(scratch_);
    scratch_ = nullptr;
    scratch_bytes_ = 0;
}

/// Scratch that a buffer needs: none in device memory, which NCCL takes as it is.
std::size_t scratch_of(std::span<const std::byte> bytes) {
    return bytes.empty() || on_device(bytes.data()) ? 0 : (bytes.size() + 63) / 64 * 64;
}

NcclCommunicator::Buffer NcclCommunicator::buffer(std::span<const std::byte> bytes,
                                                  std::byte*& next) const {
    const std::size_t needed = scratch_of(bytes);
    if (needed == 0) return {bytes, const_cast<std::byte*>(bytes.data()), false};
    Buffer made{bytes, next, true};
    next += needed;
    return made;
}

void NcclCommunicator::copy_in(const Buffer& b) {
    if (b.copied) {
        require_cuda(cudaMemcpyAsync(b.device, b.from.data(), b.from.size(), cudaMemcpyHostToDevice,
                                     stream_),
                     "copying to the device");
    }
}

/// Waits for the stream, then copies to the host. Not the other way round: a copy to ordinary
/// memory may keep its caller until the peers have come, who could not give up meanwhile.
void NcclCommunicator::copy_out(std::span<const Buffer> buffers, const char* doing) {
    finish_stream(doing);
    for (const Buffer& b : buffers) {
        if (!b.copied) continue;
        require_cuda(cudaMemcpyAsync(const_cast<std::byte*>(b.from.data()), b.device, b.from.size(),
                                     cudaMemcpyDeviceToHost, stream_),
                     "copying from the device");
    }
    finish_stream(doing);
    release_much();
}

void NcclCommunicator::run(Operation& operation) {
    thread_local const bool opened [[maybe_unused]] = cudaSetDevice(device_) == cudaSuccess;
    struct Running {
        Running() { running.fetch_add(1); }
        ~Running() { running.fetch_sub(1); }
    } const marker;
    switch (operation.kind) {
        case Operation::Kind::kAllGather:
            return all_gather(operation);
        case Operation::Kind::kExchange:
            return exchange(operation);
        case Operation::Kind::kBroadcast:
            return broadcast(operation);
    }
}

void NcclCommunicator::all_gather(const Operation& operation) {
    const std::size_t bytes = operation.mine.size();
    if (bytes == 0) return;
    if (scratch_of(operation.all) > 0) return all_gather_to_host(operation);
    std::byte* all = operation.all.data();
    std::byte* place = all + static_cast<std::size_t>(rank()) * bytes;
    // From wherever it is to its own place, so that NCCL works in place.
    const auto* mine = operation.mine.data();
    if (mine != place) {
        require_cuda(cudaMemcpyAsync(place, mine, bytes, cudaMemcpyDefault, stream_),
                     "copying a rank's own part");
    }
    require_nccl(ncclAllGather(place, all, bytes, ncclUint8, comm_, stream_), "an all-gather");
    finish_calls("an all-gather");
    finish_stream("an all-gather");
}

/// In pieces of the ranks' parts: the device's memory is planned for, and a base has large units.
void NcclCommunicator::all_gather_to_host(const Operation& operation) {
    const std::size_t bytes = operation.mine.size();
    const auto ranks = static_cast<std::size_t>(count()), self = static_cast<std::size_t>(rank());
    const std::size_t most = std::min(bytes, std::max(kScratchBytes / ranks, std::size_t{4096}));
    std::byte* const scratch = reserve(most * ranks);
    for (std::size_t at = 0; at < bytes; at += most) {
        const std::size_t piece = std::min(most, bytes - at);
        require_cuda(cudaMemcpyAsync(scratch + self * piece, operation.mine.data() + at, piece,
                                     cudaMemcpyDefault, stream_),
                     "copying to the device");
        require_nccl(
            ncclAllGather(scratch + self * piece, scratch, piece, ncclUint8, comm_, stream_),
            "an all-gather");
        finish_calls("an all-gather");
        finish_stream("an all-gather");
        for (std::size_t r = 0; r < ranks; ++r) {
            require_cuda(cudaMemcpyAsync(operation.all.data() + r * bytes + at, scratch + r * piece,
                                         piece, cudaMemcpyDeviceToHost, stream_),
                         "copying from the device");
        }
        finish_stream("an all-gather");
    }
}

void NcclCommunicator::exchange(const Operation& operation) {
    std::size_t total = 0;
    for (const SendPiece& piece : operation.sends) total += scratch_of(piece.bytes);
    for (const RecvPiece& piece : operation.receives) total += scratch_of(piece.bytes);
    std::byte* next = reserve(total);
    std::vector<Buffer> sends, receives;
    for (const SendPiece& piece : operation.sends) {
        sends.push_back(buffer(piece.bytes, next));
        copy_in(sends.back());
    }
    for (const RecvPiece& piece : operation.receives) receives.push_back(buffer(piece.bytes, next));
    require_nccl(ncclGroupStart(), "an exchange");
    for (std::size_t i = 0; i < sends.size(); ++i) {
        if (sends[i].from.empty()) continue;
        require_nccl(ncclSend(sends[i].device, sends[i].from.size(), ncclUint8,
                              operation.sends[i].to, comm_, stream_),
                     "an exchange");
    }
    for (std::size_t i = 0; i < receives.size(); ++i) {
        if (receives[i].from.empty()) continue;
        require_nccl(ncclRecv(receives[i].device, receives[i].from.size(), ncclUint8,
                              operation.receives[i].from, comm_, stream_),
                     "an exchange");
    }
    require_nccl(ncclGroupEnd(), "an exchange");
    finish_calls("an exchange");
    copy_out(receives, "an exchange");
}

void NcclCommunicator::broadcast(const Operation& operation) {
    const std::size_t bytes = operation.all.size();
    const std::size_t most = scratch_of(operation.all) > 0 ? std::min(bytes, kScratchBytes) : bytes;
    for (std::size_t at = 0; at < bytes; at += most) {
        const std::span<std::byte> piece = operation.all.subspan(at, std::min(most, bytes - at));
        std::byte* next = reserve(scratch_of(piece));
        const Buffer all = buffer(piece, next);
        if (rank() == operation.root) copy_in(all);
        require_nccl(ncclBroadcast(all.device, all.device, piece.size(), ncclUint8, operation.root,
                                   comm_, stream_),
                     "a broadcast");
        finish_calls("a broadcast");
        copy_out({&all, rank() == operation.root ? 0U : 1U}, "a broadcast");
    }
}

}  // namespace

std::string nccl_build() {
    int version = 0;
    ncclGetVersion(&version);
    return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::vector<NcclDevice> nccl_devices() {
    std::vector<NcclDevice> devices;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();
        return devices;
    }
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp properties;
        require_cuda(cudaGetDeviceProperties(&properties, i), "asking for a device");
        if (properties.major * 10 + properties.minor < 75) continue;
        devices.push_back({i, {properties.uuid.bytes, sizeof properties.uuid.bytes}});
    }
    return devices;
}

std::string make_nccl_id() {
    ncclUniqueId unique{};
    const ncclResult_t result = ncclGetUniqueId(&unique);
    if (result != ncclSuccess)
        throw SystemError(ExitCode::kUnavailable,
                          fmt::format("NCCL could not make an id: {}", ncclGetErrorString(result)));
    return {reinterpret_cast<const char*>(&unique), sizeof unique};
}

std::unique_ptr<Communicator> make_nccl_communicator(const std::string& id, int rank, int count,
                                                     int device) {
    return std::make_unique<NcclCommunicator>(id, rank, count, device);
}

void abandon_nccl() noexcept {
    ending = true;
    for (int i = 0; i < 100 && running.load() > 0; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

}  // namespace qshard
