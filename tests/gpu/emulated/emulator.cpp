#include "emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"

namespace emulator {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kPoisonBytes = std::size_t{16} << 20;
constexpr int kWarp = 32;

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
    State state = State::kReady;
    bool started = false;
    Position position;
    int number = 0;
    int parity = 0;
    ucontext_t context{};
    jmp_buf resume;
    std::vector<Copy> open_copies;
    std::deque<std::vector<Copy>> groups;
};

struct Slots {
    Slot of[2][kWarp];
};

/// The machine of one OS thread.
struct Machine {
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<std::unique_ptr<unsigned char[]>> stacks;
    std::vector<Slots> slots;
    std::vector<unsigned char> shared;
    Fiber* running = nullptr;
    dim3 grid, block;
    const std::function<void()>* body = nullptr;
    jmp_buf back;
    std::map<void*, std::size_t> regions;
};
thread_local std::unique_ptr<Machine> owner;
/// What it owns, for the kernels' every step: reading it runs no initialization.
constinit thread_local Machine* machine = nullptr;

Machine& this_machine() {
    if (!machine) {
        owner = std::make_unique<Machine>();
        machine = owner.get();
    }
    return *machine;
}

/// A fiber's life, on its own stack: one thread of a block after the other.
void live() {
    for (;;) {
        (*machine->body)();
        Fiber& fiber = *machine->running;
        fiber.state = State::kDone;
        if (_setjmp(fiber.resume) == 0) _longjmp(machine->back, 1);
    }
}

/// Lets the fiber run until it waits or ends.
void resume(Fiber& fiber) {
    machine->running = &fiber;
    if (_setjmp(machine->back) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

void wait(State state) {
    Fiber& fiber = *machine->running;
    fiber.state = state;
    if (_setjmp(fiber.resume) == 0) _longjmp(machine->back, 1);
}

bool all(int first, int count, State state) {
    for (int i = first; i < first + count; ++i) {
        const State is = machine->fibers[static_cast<std::size_t>(i)]->state;
        if (is != state && is != State::kDone) return false;
    }
    return true;
}

void release_all(int first, int count) {
    for (int i = first; i < first + count; ++i) {
        Fiber& fiber = *machine->fibers[static_cast<std::size_t>(i)];
        if (fiber.state != State::kDone) fiber.state = State::kReady;
    }
}

/// Runs a warp until all its lanes wait for the block or have ended.
void run_warp(int first) {
    while (!all(first, kWarp, State::kAtBlock)) {
        for (int i = first; i < first + kWarp; ++i) {
            Fiber& fiber = *machine->fibers[static_cast<std::size_t>(i)];
            if (fiber.state == State::kReady) resume(fiber);
        }
        if (all(first, kWarp, State::kAtWarp)) {
            release_all(first, kWarp);
            continue;
        }
        qshard::check(all(first, kWarp, State::kAtBlock),
                      "the lanes of a warp wait at the same place");
    }
}

void run_block(const dim3& at, int threads) {
    std::memset(machine->shared.data(), 0xff, machine->shared.size());
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = *machine->fibers[static_cast<std::size_t>(i)];
        const auto n = static_cast<unsigned>(i);
        fiber.state = State::kReady;
        fiber.number = i;
        fiber.parity = 0;
        fiber.position = {{n % machine->block.x, n / machine->block.x % machine->block.y,
                           n / machine->block.x / machine->block.y},
                          at};
    }
    while (!all(0, threads, State::kDone)) {
        for (int first = 0; first < threads; first += kWarp) run_warp(first);
        release_all(0, threads);
    }
    for (int i = 0; i < threads; ++i) {
        const Fiber& fiber = *machine->fibers[static_cast<std::size_t>(i)];
        qshard::check(fiber.groups.empty() && fiber.open_copies.empty(),
                      "a thread waits for its copies before it ends");
    }
}

}  // namespace

const Position& position() {
    return machine->running->position;
}
const dim3& block_size() {
    return machine->block;
}
const dim3& grid_size() {
    return machine->grid;
}
unsigned char* dynamic_shared() {
    return machine->shared.data();
}
int lane() {
    return machine->running->number % kWarp;
}

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
    const int threads = static_cast<int>(block.x * block.y * block.z);
    qshard::check(threads > 0 && threads % kWarp == 0 && threads <= 1024,
                  "a block has whole warps, at most 1024 threads");
    this_machine();
    qshard::check(grid.y <= 65535 && grid.z <= 65535, "a grid has at most 65535 blocks along y, z");
    while (static_cast<int>(machine->fibers.size()) < threads) {
        machine->fibers.push_back(std::make_unique<Fiber>());
        machine->stacks.push_back(std::make_unique<unsigned char[]>(kStackBytes));
        ucontext_t& context = machine->fibers.back()->context;
        getcontext(&context);
        context.uc_stack.ss_sp = machine->stacks.back().get();
        context.uc_stack.ss_size = kStackBytes;
        context.uc_link = nullptr;
        makecontext(&context, live, 0);
    }
    machine->slots.resize(32);
    machine->shared.assign(shared_bytes + 128, 0xff);
    machine->grid = grid;
    machine->block = block;
    machine->body = &body;
    open(true);
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) run_block({x, y, z}, threads);
        }
    }
    open(false);
}

void block_barrier() {
    wait(State::kAtBlock);
}
void warp_barrier() {
    wait(State::kAtWarp);
}

void exchange(const void* data, std::size_t bytes) {
    Fiber& fiber = *machine->running;
    fiber.parity ^= 1;
    auto& slots = machine->slots[static_cast<std::size_t>(fiber.number / kWarp)];
    std::memcpy(slots.of[fiber.parity][fiber.number % kWarp].bytes, data, bytes);
    wait(State::kAtWarp);
}

const Slot* slots() {
    const Fiber& fiber = *machine->running;
    return machine->slots[static_cast<std::size_t>(fiber.number / kWarp)].of[fiber.parity];
}

void copy_later(void* to, const void* from, bool valid) {
    qshard::check(reinterpret_cast<std::uintptr_t>(to) % 16 == 0 &&
                      (!valid || reinterpret_cast<std::uintptr_t>(from) % 16 == 0),
                  "an asynchronous copy is aligned to 16 bytes");
    machine->running->open_copies.push_back({to, from, valid});
}
void commit_copies() {
    Fiber& fiber = *machine->running;
    fiber.groups.push_back(std::move(fiber.open_copies));
    fiber.open_copies.clear();
}
void finish_copies(int pending) {
    Fiber& fiber = *machine->running;
    while (static_cast<int>(fiber.groups.size()) > pending) {
        for (const Copy& copy : fiber.groups.front()) {
            if (copy.valid) {
                std::memcpy(copy.to, copy.from, 16);
            } else {
                std::memset(copy.to, 0, 16);
            }
        }
        fiber.groups.pop_front();
    }
}

void Stream::finish(std::size_t issued) {
    if (done_ >= issued) return;
    open(true);
    for (; done_ < issued; ++done_) {
        const Bytes& bytes = copies_.front();
        if (bytes.count > 0) std::memcpy(bytes.to, bytes.from, bytes.count);
        copies_.pop_front();
    }
    open(false);
}

void* allocate(std::size_t bytes) {
    void* pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    qshard::check(pointer != MAP_FAILED, "memory can be mapped");
    if (bytes <= kPoisonBytes) std::memset(pointer, 0xff, bytes);
    mprotect(pointer, bytes, PROT_NONE);
    this_machine().regions[pointer] = bytes;
    return pointer;
}
void release(void* pointer) {
    auto& regions = this_machine().regions;
    const auto it = regions.find(pointer);
    if (it == regions.end()) return;  // null, or of another thread
    munmap(pointer, it->second);
    regions.erase(it);
}
std::size_t allocated() {
    std::size_t bytes = 0;
    for (const auto& region : this_machine().regions) bytes += region.second;
    return bytes;
}
void open(bool accessible) {
    for (const auto& [pointer, bytes] : this_machine().regions)
        mprotect(pointer, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
}

}  // namespace emulator
