#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/philox.h"

/// The op suite: every operation of every backend against the reference, in three modes. Value: the
/// reference's result within a tolerance of k * eps * sqrt(length). Determinism: the same bits for
/// 1, 2 and 3 threads. Gradient: finite differences of the backend's own forward.
namespace qshard::ops {

constexpr double kEps32 = 0x1p-24;
constexpr double kEps16 = 0x1p-8;  ///< one bf16 rounding, and one more where it flips

/// A host array, fp32 or bf16 (or bytes).
struct Array {
    DType dtype = DType::kF32;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;

    std::int64_t count() const {
        std::int64_t product = 1;
        for (std::int64_t extent : shape) product *= extent;
        return product;
    }
    float at(std::int64_t i) const {
        if (dtype == DType::kBF16) {
            bf16 value;
            std::memcpy(&value, bytes.data() + 2 * i, 2);
            return to_float(value);
        }
        float value;
        std::memcpy(&value, bytes.data() + 4 * i, 4);
        return value;
    }
    void set(std::int64_t i, float value) {
        if (dtype == DType::kBF16) {
            const bf16 rounded = to_bf16(value);
            std::memcpy(bytes.data() + 2 * i, &rounded, 2);
        } else {
            std::memcpy(bytes.data() + 4 * i, &value, 4);
        }
    }
};

Array zeros(std::vector<std::int64_t> shape, DType dtype = DType::kF32);
/// Uniform in [-scale, scale), a function of the seed and the shape's count.
Array random(std::uint64_t seed, std::vector<std::int64_t> shape, DType dtype = DType::kF32,
             float scale = 1.0f);
/// Rows [begin, begin + count) of the first dimension.
Array rows_of(const Array& x, std::int64_t begin, std::int64_t count);

/// Host arrays in a backend's memory for the length of a test.
class Memory {
  public:
    explicit Memory(Backend& backend) : backend_(backend) {}
    ~Memory() {
        for (void* pointer : owned_) backend_.release(pointer);
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    void* raw(std::size_t bytes) {
        owned_.push_back(backend_.allocate(bytes));
        return owned_.back();
    }
    template <class T>
    T* put(const std::vector<T>& values) {
        void* pointer = raw(values.size() * sizeof(T));
        backend_.upload(pointer, values.data(), values.size() * sizeof(T));
        return static_cast<T*>(pointer);
    }
    Tensor put(const Array& x);
    Array get(const Tensor& x);
    Tensor fresh(std::vector<std::int64_t> shape, DType dtype = DType::kF32) {
        return put(zeros(std::move(shape), dtype));
    }

  private:
    Backend& backend_;
    std::vector<void*> owned_;
};

/// What an op computed on a backend.
using Compute = std::function<std::vector<Array>(Backend&, Memory&)>;

/// A test for every kernel set of the backend under test.
class Ops : public testing::TestWithParam<std::string> {
  public:
    void SetUp() override;
    std::unique_ptr<Backend> make(int threads = 1) const;
    bool native() const { return GetParam().rfind("emulated", 0) != 0; }
    /// Attention's probabilities are rounded to bf16 in this set.
    bool coarse_attention() const {
        return GetParam().find("bf16") != std::string::npos || GetParam() == "cuda" ||
               GetParam() == "emulated_cuda_sm_90";
    }
    /// Value and determinism: |result - reference| <= absolute + relative * |reference|.
    void expect_reference(const Compute& run, double absolute, double relative = 0) const;
    /// Gradient: sum(weights * f(x)) along a random direction against `gradient`, to `tolerance` of
    /// the norm of gradient.
    static void expect_gradient(const std::function<double(const Array&)>& loss, const Array& x,
                                const Array& gradient, float step, double tolerance);
};

std::vector<Array> run_on(Backend& backend, const Compute& run);
void expect_same_bits(const Array& a, const Array& b, const std::string& what);

/// Sum of a * b in double.
double dot(const Array& a, const Array& b);

std::vector<std::string> kernel_sets();

}  // namespace qshard::ops

#define QSHARD_OPS_SUITE(fixture)                                                            \
    INSTANTIATE_TEST_SUITE_P(Sets, fixture, testing::ValuesIn(::qshard::ops::kernel_sets()), \
                             [](const auto& set) { return set.param; })
