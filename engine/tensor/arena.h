#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/tensor.h"

namespace qshard {

/// Named, accounted memory: everything is reserved by name first, the table can be printed and
/// checked against a limit, then one allocation serves it all. Nothing can be reserved afterwards,
/// so the plan is the peak, byte for byte.
class Arena {
  public:
    struct Entry {
        std::string name;
        std::size_t bytes = 0;  ///< as asked for
        std::size_t offset = 0;
    };
    using Handle = std::size_t;

    Handle reserve(std::string name, std::size_t bytes) {
        check(base_ == nullptr, "memory is reserved before the arena is allocated");
        entries_.push_back({std::move(name), bytes, total_});
        total_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
        return entries_.size() - 1;
    }
    /// Allocates everything at once. The pointer given by `allocate` must be 64-byte aligned; it
    /// stays its owner's.
    void commit(const std::function<void*(std::size_t bytes)>& allocate) {
        check(base_ == nullptr, "an arena is allocated once");
        base_ = static_cast<std::byte*>(allocate(total_ == 0 ? kAlignment : total_));
    }
    std::byte* at(Handle handle) const {
        check(base_ != nullptr, "the arena is allocated");
        return base_ + entries_.at(handle).offset;
    }
    Tensor tensor(Handle handle, DType dtype, std::initializer_list<std::int64_t> shape) const {
        Tensor view(at(handle), dtype, shape);
        check(view.bytes() <= entries_.at(handle).bytes, "a tensor fits its reservation");
        return view;
    }
    std::size_t bytes(Handle handle) const { return entries_.at(handle).bytes; }
    std::size_t total_bytes() const { return total_; }
    void* data() const { return base_; }
    const std::vector<Entry>& entries() const { return entries_; }

  private:
    static constexpr std::size_t kAlignment = 64;
    std::vector<Entry> entries_;
    std::size_t total_ = 0;
    std::byte* base_ = nullptr;
};

/// A bump allocator over memory that a phase borrows; reset() starts the next phase. Never grows.
class Scratch {
  public:
    Scratch() = default;
    Scratch(std::byte* base, std::size_t bytes) : base_(base), bytes_(bytes) {}
    Tensor take(DType dtype, std::initializer_list<std::int64_t> shape) {
        Tensor view(base_ + used_, dtype, shape);
        used_ += aligned(view.bytes());
        check(used_ <= bytes_, "scratch memory was planned large enough");
        return view;
    }
    void reset() { used_ = 0; }
    static constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  private:
    std::byte* base_ = nullptr;
    std::size_t bytes_ = 0, used_ = 0;
};

}  // namespace qshard
