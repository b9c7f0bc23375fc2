#include "backend/host_arena.h"

#include <sys/mman.h>

namespace qshard {

HostArena::~HostArena() {
    if (data() == nullptr) return;
    if (pinned_) backend_.unpin(data());
    munmap(data(), total_bytes());
}

void HostArena::commit() {
    if (total_bytes() == 0) return;
    Arena::commit([](std::size_t bytes) {
        void* pointer =
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pointer == MAP_FAILED) {
            throw SystemError(ExitCode::kUnavailable,
                              fmt::format("cannot take {} bytes of the host's memory", bytes));
        }
        madvise(pointer, bytes, MADV_HUGEPAGE);
        return pointer;
    });
}

void HostArena::pin() {
    if (data() != nullptr) pinned_ = backend_.pin(data(), total_bytes());
}

}  // namespace qshard
