#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/sizes.h"

namespace qshard::cpu {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

void* allocate_bytes(std::size_t bytes) {
    // Panels are read with strides of pages: large blocks ask for huge ones.
    const bool large = bytes >= 2 * kHugePage;
    const std::size_t alignment = large ? kHugePage : 64;
    const std::size_t rounded =
        (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
    void* pointer = std::aligned_alloc(alignment, rounded);
    if (pointer == nullptr) {
        throw SystemError(ExitCode::kUnavailable,
                          fmt::format("cannot allocate {} bytes of memory", bytes));
    }
    if (large) madvise(pointer, rounded, MADV_HUGEPAGE);
    return pointer;
}

bool is_any(const Tensor& x) {
    return x.dtype() == DType::kF32 || x.dtype() == DType::kBF16;
}

std::byte* element(const Tensor& x, std::int64_t at) {
    return static_cast<std::byte*>(x.data()) + at * static_cast<std::int64_t>(bytes_of(x.dtype()));
}
In in_at(const Tensor& x, std::int64_t at) {
    check(is_any(x), "an operand is fp32 or bf16");
    return {x.empty() ? nullptr : element(x, at), x.dtype() == DType::kBF16};
}
Out out_at(const Tensor& x, std::int64_t at) {
    check(is_any(x), "a result is fp32 or bf16");
    return {x.empty() ? nullptr : element(x, at), x.dtype() == DType::kBF16};
}

std::int64_t rows_per_task(std::int64_t width) {
    return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(width, 1));
}

}  // namespace

void AlignedDelete::operator()(std::byte* pointer) const {
    std::free(pointer);
}

AlignedBytes allocate_aligned(std::size_t bytes) {
    return AlignedBytes(static_cast<std::byte*>(allocate_bytes(bytes)));
}

In in_of(const Tensor& x) {
    return in_at(x, 0);
}

CpuBackend::CpuBackend(const Kernels& kernels, int threads)
    : kernels_(kernels),
      pool_(threads),
      scratch_bytes_(std::max({static_cast<std::size_t>(kScratchBytes),
                               kernels.attention_scratch(kernels.f32, kMaxHeadWidth),
                               kernels.attention_scratch(kernels.bf16, kMaxHeadWidth)})),
      workspace_(allocate_aligned(workspace_bytes())) {}

std::size_t CpuBackend::workspace_bytes() const {
    return static_cast<std::size_t>(kPackBytes) +
           scratch_bytes_ * static_cast<std::size_t>(pool_.threads());
}

std::byte* CpuBackend::scratch(int thread) const {
    return workspace_.get() + kPackBytes + scratch_bytes_ * static_cast<std::size_t>(thread);
}

void* CpuBackend::allocate(std::size_t bytes) {
    return allocate_bytes(bytes);
}
void CpuBackend::release(void* pointer) {
    std::free(pointer);
}
void CpuBackend::upload(void* device, const void* host, std::size_t bytes) {
    if (bytes > 0) std::memcpy(device, host, bytes);
}
void CpuBackend::download(void* host, const void* device, std::size_t bytes) {
    if (bytes > 0) std::memcpy(host, device, bytes);
}

void CpuBackend::fill_zero(Tensor out) {
    const auto bytes = static_cast<std::int64_t>(out.bytes());
    for_ranges(bytes, kElementGrain * 4, [&](std::int64_t begin, std::int64_t end) {
        std::memset(static_cast<std::byte*>(out.data()) + begin, 0,
                    static_cast<std::size_t>(end - begin));
    });
}

void CpuBackend::copy(Tensor in, Tensor out) {
    check(in.count() == out.count(), "copy keeps the count");
    for_ranges(in.count(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
        kernels_.copy_scaled(in_at(in, begin), 1.0f, out_at(out, begin), end - begin);
    });
}

void CpuBackend::embed(Tensor table, std::span<const std::int32_t> ids, float factor, Tensor x) {
    const std::int64_t width = table.cols(), count = static_cast<std::int64_t>(ids.size());
    check(x.count() == count * width, "embed's result has one row a token");
    for (std::int32_t id : ids)
        check(id >= 0 && id < table.rows(), "token id lies in the vocabulary");
    for_ranges(count, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            kernels_.copy_scaled(in_at(table, ids[static_cast<std::size_t>(n)] * width), factor,
                                 out_at(x, n * width), width);
        }
    });
}

void CpuBackend::embed_backward(Tensor dx, std::span<const std::int32_t> ids, float factor,
                                Tensor dtable) {
    const std::int64_t width = dtable.cols();
    check(dx.count() == std::ssize(ids) * width, "embed's derivative has one row a token");
    for (std::int32_t id : ids) check(id < dtable.rows(), "token id lies in the vocabulary");
    float* table = dtable.as<float>();
    // Threads share out the columns: a row may be that of several tokens.
    for_ranges(width, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
        std::int64_t at = begin;
        for (std::int32_t id : ids) {
            if (id >= 0)
                kernels_.add(in_at(dx, at), factor, table + id * width + begin, end - begin);
            at += width;
        }
    });
}

void CpuBackend::rms_norm(Tensor x, Tensor gain, float eps, bool offset, Tensor y) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && y.count() == x.count(), "rms_norm operands fit");
    const float* g = gain.as<float>();
    for_ranges(x.count() / width, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        kernels_.rms_norm(in_at(x, begin * width), g, eps, offset, out_at(y, begin * width),
                          end - begin, width);
    });
}

void CpuBackend::rms_norm_backward(Tensor x, Tensor gain, float eps, bool offset, Tensor dy,
                                   Tensor dx, bool accumulate) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && dy.count() == x.count() && dx.count() == x.count(),
          "rms_norm_backward operands fit");
    const float* g = gain.as<float>();
    float* out = dx.as<float>();
    for_ranges(x.count() / width, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        kernels_.rms_norm_backward(in_at(x, begin * width), g, eps, offset,
                                   in_at(dy, begin * width), out + begin * width, accumulate,
                                   end - begin, width);
    });
}

void CpuBackend::layer_norm(Tensor x, Tensor gain, Tensor bias, float eps, Tensor y) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && y.count() == x.count() && bias.count() == width,
          "layer_norm operands fit");
    const float *g = gain.as<float>(), *b = bias.as<float>();
    for_ranges(x.count() / width, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        kernels_.layer_norm(in_at(x, begin * width), g, b, eps, out_at(y, begin * width),
                            end - begin, width);
    });
}

void CpuBackend::layer_norm_backward(Tensor x, Tensor gain, float eps, Tensor dy, Tensor dx,
                                     bool accumulate) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && dy.count() == x.count() && dx.count() == x.count(),
          "layer_norm_backward operands fit");
    const float* g = gain.as<float>();
    float* out = dx.as<float>();
    for_ranges(x.count() / width, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        kernels_.layer_norm_backward(in_at(x, begin * width), g, eps, in_at(dy, begin * width),
                                     out + begin * width, accumulate, end - begin, width);
    });
}

void CpuBackend::rope(Tensor x, std::span<const std::int32_t> positions, Tensor cos, Tensor sin,
                      bool inverse) {
    check(x.rank() == 3, "rope takes [N, heads, D]");
    const std::int64_t heads = x.dim(1), width = x.dim(2), half = cos.cols();
    const std::int64_t count = static_cast<std::int64_t>(positions.size());
    check(x.dim(0) == count && 2 * half <= width, "rope operands fit");
    const float *c = cos.as<float>(), *s = sin.as<float>();
    for_ranges(count, rows_per_task(heads * width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            const std::int64_t line = positions[static_cast<std::size_t>(n)] * half;
            kernels_.rope(out_at(x, n * heads * width), c + line, s + line, inverse, heads, width,
                          half);
        }
    });
}

void CpuBackend::activate(Activation kind, Tensor gate, Tensor up, Tensor out) {
    check(up.count() == out.count() && (gate.empty() || gate.count() == up.count()),
          "activate operands fit");
    check(up.dtype() == out.dtype() && (gate.empty() || gate.dtype() == up.dtype()),
          "activate has one dtype");
    for_ranges(up.count(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
        kernels_.activate(kind, in_at(gate, begin), in_at(up, begin), out_at(out, begin),
                          end - begin);
    });
}

void CpuBackend::activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout,
                                   Tensor dgate, Tensor dup) {
    check(dout.count() == up.count() && dup.count() == up.count() &&
              (gate.empty() || (gate.count() == up.count() && dgate.count() == up.count() &&
                                gate.dtype() == up.dtype())),
          "activate_backward operands fit");
    for_ranges(up.count(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
        kernels_.activate_backward(kind, in_at(gate, begin), in_at(up, begin), in_at(dout, begin),
                                   out_at(dgate, begin), out_at(dup, begin), end - begin);
    });
}

void CpuBackend::dropout(const DropoutMask& mask, Tensor x, bool accumulate, Tensor y) {
    check_dropout(x, accumulate, y);
    for_ranges(x.count(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
        drop_range(mask, x, accumulate, y, begin, end - begin);
    });
}

void CpuBackend::add(Tensor x, float factor, Tensor y) {
    check(x.count() == y.count(), "add operands fit");
    float* out = y.as<float>();
    for_ranges(y.count(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
        kernels_.add(in_at(x, begin), factor, out + begin, end - begin);
    });
}

void CpuBackend::add_rows(Tensor in, std::span<const std::int32_t> rows,
                          std::span<const float> factors, Tensor out) {
    const std::int64_t width = out.cols(), count = static_cast<std::int64_t>(rows.size());
    check(in.count() == count * width && factors.size() == rows.size(), "add_rows operands fit");
    for (std::int32_t row : rows) check(row >= 0 && row < out.rows(), "a row added to exists");
    float* sums = out.as<float>();
    for_ranges(count, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const auto at = static_cast<std::size_t>(i);
            kernels_.add(in_at(in, i * width), factors[at], sums + rows[at] * width, width);
        }
    });
}

void CpuBackend::scale_rows(Tensor x, std::span<const float> factors) {
    const std::int64_t width = x.cols();
    check(x.rows() == static_cast<std::int64_t>(factors.size()), "scale_rows operands fit");
    for_ranges(x.rows(), rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            kernels_.copy_scaled(in_at(x, n * width), factors[static_cast<std::size_t>(n)],
                                 out_at(x, n * width), width);
        }
    });
}

void CpuBackend::row_dots(Tensor a, Tensor b, Tensor out) {
    const std::int64_t width = a.cols();
    check(b.rows() == a.rows() && b.cols() == width && out.count() == a.rows(),
          "row_dots operands fit");
    float* sums = out.as<float>();
    for_ranges(a.rows(), rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        kernels_.row_dots(in_at(a, begin * width), in_at(b, begin * width), sums + begin,
                          end - begin, width);
    });
}

void CpuBackend::row_norms(const WeightView& weight, Tensor a, Tensor b, float factor,
                           Tensor magnitude, Tensor out) {
    const std::int64_t width = weight.cols, r = a.rows();
    check(a.cols() == width && b.rows() == weight.rows && b.cols() == r &&
              out.count() == weight.rows &&
              (magnitude.empty() || magnitude.count() == weight.rows) && width * 4 <= kScratchBytes,
          "row_norms operands fit");
    const float *down = a.as<float>(), *up = b.as<float>();
    const float* m = magnitude.empty() ? nullptr : magnitude.as<float>();
    float* norms = out.as<float>();
    pool_.run(weight.rows, [&](std::int64_t o, int thread) {
        auto* line = reinterpret_cast<float*>(scratch(thread));
        kernels_.expand(weight, o * width, width, line);
        for (std::int64_t k = 0; k < r; ++k)
            kernels_.add({down + k * width, false}, factor * up[o * r + k], line, width);
        kernels_.row_dots({line, false}, {line, false}, norms + o, 1, width);
        norms[o] = std::sqrt(norms[o]);
        if (m != nullptr) norms[o] = norms[o] > 0 ? m[o] / norms[o] : 0.0f;
    });
}

void CpuBackend::magnitude_backward(Tensor dy, Tensor y, Tensor bias, Tensor magnitude,
                                    Tensor factor, Tensor db, Tensor dmagnitude) {
    constexpr std::int64_t kColumns = 256;  // of a task
    const std::int64_t width = dy.cols(), r = db.cols();
    check(y.rows() == dy.rows() && y.cols() == width && db.rows() == width &&
              magnitude.count() == width && factor.count() == width &&
              dmagnitude.count() == width && (bias.empty() || bias.count() == width),
          "magnitude_backward operands fit");
    const float *m = magnitude.as<float>(), *g = factor.as<float>();
    const float* shift = bias.empty() ? nullptr : bias.as<float>();
    float *to_b = db.as<float>(), *to_m = dmagnitude.as<float>();
    for_ranges(width, kColumns, [&](std::int64_t begin, std::int64_t end) {
        kernels_.column_dots(in_at(dy, begin), in_at(y, begin),
                             shift == nullptr ? nullptr : shift + begin, to_m + begin, dy.rows(),
                             end - begin, width);
        for (std::int64_t o = begin; o < end; ++o) {
            to_m[o] = m[o] == 0 ? 0.0f : to_m[o] / m[o];
            kernels_.copy_scaled({to_b + o * r, false}, g[o], {to_b + o * r, false}, r);
        }
    });
}

void CpuBackend::log_softmax(Tensor logits, std::span<const std::int32_t> targets,
                             float logit_scale, float softcap, Tensor dlogprob, Tensor logprob) {
    const std::int64_t rows = logits.rows(), width = logits.cols();
    check(static_cast<std::int64_t>(targets.size()) == rows && logprob.count() == rows &&
              (dlogprob.empty() || dlogprob.count() == rows),
          "log_softmax operands fit");
    for (std::int32_t target : targets) {
        check(target >= 0 && target < width, "a target lies in the vocabulary");
    }
    float *z = logits.as<float>(), *out = logprob.as<float>();
    const float* d = dlogprob.empty() ? nullptr : dlogprob.as<float>();
    pool_.run(rows, [&](std::int64_t m, int) {
        out[m] = kernels_.log_softmax(z + m * width, width, targets[static_cast<std::size_t>(m)],
                                      logit_scale, softcap, d == nullptr ? nullptr : d + m);
    });
}

void CpuBackend::gather_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) {
    const std::int64_t width = in.cols(), count = static_cast<std::int64_t>(rows.size());
    check(out.count() == count * width, "gather_rows operands fit");
    for (std::int32_t row : rows) check(row >= 0 && row < in.rows(), "a gathered row exists");
    for_ranges(count, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            kernels_.copy_scaled(in_at(in, rows[static_cast<std::size_t>(i)] * width), 1.0f,
                                 out_at(out, i * width), width);
        }
    });
}

void CpuBackend::scatter_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) {
    const std::int64_t width = out.cols(), count = static_cast<std::int64_t>(rows.size());
    check(in.count() == count * width, "scatter_rows operands fit");
    for (std::int32_t row : rows) check(row >= 0 && row < out.rows(), "a scattered row exists");
    fill_zero(out);
    for_ranges(count, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            kernels_.copy_scaled(in_at(in, i * width), 1.0f,
                                 out_at(out, rows[static_cast<std::size_t>(i)] * width), width);
        }
    });
}

double CpuBackend::sum_of_squares(Tensor x) {
    constexpr std::int64_t kChunk = 4096, kChunksPerTask = 16, kChunksPerPass = 16384;
    static_assert(kChunksPerPass * sizeof(double) <= kPackBytes);
    const float* values = x.as<float>();
    auto* sums = reinterpret_cast<double*>(workspace_.get());
    double total = 0;
    for (std::int64_t begin = 0; begin < x.count(); begin += kChunksPerPass * kChunk) {
        const std::int64_t count = std::min(kChunksPerPass * kChunk, x.count() - begin);
        for_ranges(count, kChunksPerTask * kChunk, [&](std::int64_t first, std::int64_t end) {
            kernels_.sum_of_squares(values + begin + first, end - first, sums + first / kChunk);
        });
        for (std::int64_t i = 0; i < divide_up(count, kChunk); ++i) total += sums[i];
    }
    return total;
}

void CpuBackend::scale(Tensor x, float factor) {
    for_ranges(x.count(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
        kernels_.copy_scaled(in_at(x, begin), factor, out_at(x, begin), end - begin);
    });
}

void CpuBackend::adamw(const AdamW& hyper, Tensor parameter, Tensor gradient, Tensor exp_avg,
                       Tensor exp_avg_sq) {
    check(gradient.count() == parameter.count() && exp_avg.count() == parameter.count() &&
              exp_avg_sq.count() == parameter.count(),
          "adamw operands fit");
    float *p = parameter.as<float>(), *m = exp_avg.as<float>(), *v = exp_avg_sq.as<float>();
    const float* g = gradient.as<float>();
    for_ranges(parameter.count(), kElementGrain, [&](std::int64_t i, std::int64_t end) {
        kernels_.adamw(hyper, p + i, g + i, m + i, v + i, end - i);
    });
}

void CpuBackend::sgd(const Sgd& hyper, Tensor parameter, Tensor gradient, Tensor momentum) {
    check(gradient.count() == parameter.count() &&
              (momentum.empty() || momentum.count() == parameter.count()),
          "sgd operands fit");
    float* p = parameter.as<float>();
    const float* g = gradient.as<float>();
    float* m = momentum.empty() ? nullptr : momentum.as<float>();
    for_ranges(parameter.count(), kElementGrain, [&](std::int64_t i, std::int64_t end) {
        kernels_.sgd(hyper, p + i, g + i, m == nullptr ? nullptr : m + i, end - i);
    });
}

void CpuBackend::rmsprop(const RmsProp& hyper, Tensor parameter, Tensor gradient, Tensor square_avg,
                         Tensor momentum) {
    check(gradient.count() == parameter.count() && square_avg.count() == parameter.count() &&
              (momentum.empty() || momentum.count() == parameter.count()),
          "rmsprop operands fit");
    float *p = parameter.as<float>(), *s = square_avg.as<float>();
    const float* g = gradient.as<float>();
    float* m = momentum.empty() ? nullptr : momentum.as<float>();
    for_ranges(parameter.count(), kElementGrain, [&](std::int64_t i, std::int64_t end) {
        kernels_.rmsprop(hyper, p + i, g + i, s + i, m == nullptr ? nullptr : m + i, end - i);
    });
}

}  // namespace qshard::cpu

namespace qshard {

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
    check(options.threads >= 1, "a CPU backend has a thread");
    return std::make_unique<cpu::CpuBackend>(cpu::kernels_for(options.isa), options.threads);
}

}  // namespace qshard
