#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>

/// A GPU's execution model on one CPU thread, so that the kernels of engine/backend/cuda are tested
/// on machines without one: the threads of a block are fibers that switch at barriers and at
/// operations of a warp, blocks run one after the other. Slow, in a fixed order, and strict:
/// asynchronous copies, in kernels and
/// on streams, happen only when they are waited for, fresh memory is full of NaNs, and the
/// host cannot touch the device's. What it cannot show: races between warps that no barrier
/// separates, alignment traps, registers, speed.
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    dim3(unsigned a, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace emulator {

struct Position {
    dim3 thread, block;
};
/// Of the fiber that runs now.
const Position& position();
const dim3& block_size();
const dim3& grid_size();
unsigned char* dynamic_shared();

/// Runs body() once per thread of the grid. Threads per block: a multiple of 32.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

void block_barrier();
/// Waits for all lanes of the warp that have not ended.
void warp_barrier();
/// Every lane gives up to 32 bytes; afterwards slots()[lane] has each one's until the next but one
/// exchange.
struct Slot {
    alignas(16) unsigned char bytes[32];
};
void exchange(const void* data, std::size_t bytes);
const Slot* slots();
/// What a lane gave, if that was one T.
template <class T>
const T& given(const Slot* slots, int lane) {
    return *reinterpret_cast<const T*>(slots[lane].bytes);
}
int lane();

void copy_later(void* to, const void* from, bool valid);
void commit_copies();
/// Does the copies of all committed groups but the last `pending`.
void finish_copies(int pending);

/// A stream's copies, which happen when they are waited for: by a launch on the stream, by the host
/// or by another stream. Kernels run when they are launched.
class Stream {
  public:
    void copy(void* to, const void* from, std::size_t bytes) {
        copies_.push_back({to, from, bytes});
    }
    std::size_t issued() const { return done_ + copies_.size(); }
    /// Does the copies up to the one that made issued() this.
    void finish(std::size_t issued);
    void finish() { finish(issued()); }

  private:
    struct Bytes {
        void* to;
        const void* from;
        std::size_t count;
    };
    std::deque<Bytes> copies_;
    std::size_t done_ = 0;
};

/// Device memory, which only open() makes accessible to this thread's host code.
void* allocate(std::size_t bytes);
void release(void* pointer);
void open(bool accessible);
/// Bytes of this thread's device memory.
std::size_t allocated();

}  // namespace emulator
