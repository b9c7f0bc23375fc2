#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "base/dtype.h"
#include "base/error.h"

namespace qshard {

/// A non-owning, contiguous, row-major view: pointer, dtype, shape. Where the memory lies (host or
/// device) is the business of the Backend that computes with it. At most 4 dimensions.
class Tensor {
  public:
    Tensor() = default;
    Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape)
        : data_(data), dtype_(dtype) {
        check(shape.size() <= shape_.size(), "a tensor has at most 4 dimensions");
        for (std::int64_t extent : shape) shape_[static_cast<std::size_t>(rank_++)] = extent;
    }

    bool empty() const { return data_ == nullptr; }
    DType dtype() const { return dtype_; }
    int rank() const { return rank_; }
    std::int64_t dim(int axis) const { return shape_[static_cast<std::size_t>(axis)]; }
    std::int64_t count() const {
        std::int64_t product = 1;
        for (int axis = 0; axis < rank_; ++axis) product *= dim(axis);
        return product;
    }
    std::size_t bytes() const { return static_cast<std::size_t>(count()) * bytes_of(dtype_); }
    /// First dimension, and the product of the others: every op sees a tensor as rows of columns.
    std::int64_t rows() const { return rank_ == 0 ? 1 : dim(0); }
    std::int64_t cols() const { return rows() == 0 ? 0 : count() / rows(); }

    void* data() const { return data_; }
    /// Typed pointer; BugError if T is not the dtype.
    template <class T>
    T* as() const {
        check(dtype_of<T>() == dtype_, "tensor has the dtype asked for");
        return static_cast<T*>(data_);
    }
    /// Rows [begin, begin + count) of the first dimension.
    Tensor row_range(std::int64_t begin, std::int64_t count) const {
        Tensor part = *this;
        part.data_ = static_cast<std::byte*>(data_) +
                     static_cast<std::size_t>(begin * cols()) * bytes_of(dtype_);
        part.shape_[0] = count;
        return part;
    }
    /// The same elements under another shape of the same count.
    Tensor reshaped(std::initializer_list<std::int64_t> shape) const {
        Tensor other(data_, dtype_, shape);
        check(other.count() == count(), "a reshape keeps the element count");
        return other;
    }

    template <class T>
    static constexpr DType dtype_of();

  private:
    void* data_ = nullptr;
    DType dtype_ = DType::kF32;
    int rank_ = 0;
    std::array<std::int64_t, 4> shape_{};
};

template <>
constexpr DType Tensor::dtype_of<float>() {
    return DType::kF32;
}
template <>
constexpr DType Tensor::dtype_of<bf16>() {
    return DType::kBF16;
}
template <>
constexpr DType Tensor::dtype_of<std::uint8_t>() {
    return DType::kU8;
}
template <>
constexpr DType Tensor::dtype_of<std::int8_t>() {
    return DType::kI8;
}
template <>
constexpr DType Tensor::dtype_of<std::int32_t>() {
    return DType::kI32;
}
template <>
constexpr DType Tensor::dtype_of<std::int64_t>() {
    return DType::kI64;
}
template <>
constexpr DType Tensor::dtype_of<double>() {
    return DType::kF64;
}

}  // namespace qshard
