#include <algorithm>
#include <array>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/sizes.h"

/// Matrix products: weights come packed; activations are packed into the workspace, all threads
/// together, then tasks of a block of strips by a block of panels run over the inner dimension in
/// blocks that stay in cache, their sums resting in fp32 tiles in between.
namespace qshard::cpu {

/// How the result of one chunk of rows is cut into tasks.
struct CpuBackend::Blocks {
    const GemmKernel& g;
    std::int64_t rows, cols;
    std::int64_t strips, panels;            ///< of the chunk
    std::int64_t strips_each, panels_each;  ///< of a block
    std::int64_t row_blocks, count;

    Blocks(const GemmKernel& kernel, std::int64_t row_count, std::int64_t col_count, int threads)
        : g(kernel), rows(row_count), cols(col_count) {
        strips = divide_up(rows, g.mr);
        panels = divide_up(cols, g.nr);
        row_blocks = divide_up(strips, kTileRows / g.mr);
        strips_each = divide_up(strips, row_blocks);
        row_blocks = divide_up(strips, strips_each);
        const std::int64_t wanted = threads == 1 ? 1 : std::int64_t{16} * threads;
        panels_each = std::clamp<std::int64_t>(row_blocks * panels / wanted, 1, kTileCols / g.nr);
        count = row_blocks * divide_up(panels, panels_each);
    }
};

/// The tensors that a group of products reads, each once, and where their strips are.
class CpuBackend::Operands {
  public:
    struct Operand {
        Tensor a;
        std::int64_t inner = 0, strip_bytes = 0;
        std::int64_t begin = 0, end = 0;  ///< of the inner dimension: the range that strips hold
        std::byte* strips = nullptr;      ///< of the chunk
        bool packed = false;              ///< those of the chunk
    };

    Operands(const GemmKernel& g, std::span<const GemmCall> calls) {
        for (const GemmCall& call : calls) {
            for (const GemmTerm& term : call.terms) {
                if (index_of(term.a) < count_) continue;
                check(count_ < all_.size(), "a group of products has few operands");
                Operand& operand = all_[count_++];
                operand.a = term.a;
                operand.inner = round_up(term.a.cols(), g.k_step);
                set_range(g, operand, 0, operand.inner);
                strip_bytes_ += operand.strip_bytes;
            }
        }
    }

    std::int64_t strip_bytes() const { return strip_bytes_; }  ///< of all, of the same rows
    void start_chunk(std::byte* memory, std::int64_t strips) {
        for (Operand& operand : std::span(all_).first(count_)) {
            operand.strips = memory;
            operand.packed = false;
            memory += strips * operand.strip_bytes;
        }
    }
    /// The operand's strips hold `length` elements of its inner dimension from `begin` on.
    static void set_range(const GemmKernel& g, Operand& operand, std::int64_t begin,
                          std::int64_t length) {
        operand.begin = begin;
        operand.end = std::min(operand.inner, begin + length);
        operand.strip_bytes = round_up((operand.end - begin) * g.mr * g.a_bytes, 64);
    }
    const Operand& of(const Tensor& a) const { return all_[index_of(a)]; }
    Operand& of(const Tensor& a) { return all_[index_of(a)]; }

  private:
    /// count_ if it is none of them.
    std::size_t index_of(const Tensor& a) const {
        const auto same = [&a](const Operand& operand) {
            return operand.a.data() == a.data() && operand.a.dtype() == a.dtype() &&
                   operand.a.cols() == a.cols();
        };
        const auto known = std::span(all_).first(count_);
        return static_cast<std::size_t>(std::ranges::find_if(known, same) - known.begin());
    }

    std::array<Operand, 8> all_;
    std::size_t count_ = 0;
    std::int64_t strip_bytes_ = 0;
};

std::size_t CpuBackend::packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                                     DType dtype) const {
    const GemmKernel& g = gemm_kernel(dtype);
    const bool forward = orientation == Orientation::kForward;
    const std::int64_t inner = round_up(forward ? cols : rows, g.k_step);
    const std::int64_t outer = round_up(forward ? rows : cols, g.nr);
    return static_cast<std::size_t>(inner * outer * g.b_bytes);
}

Packed CpuBackend::pack(const WeightView& weight, Orientation orientation, DType dtype,
                        void* destination) {
    const bool forward = orientation == Orientation::kForward;
    const std::int64_t outer = forward ? weight.rows : weight.cols;
    const std::int64_t inner = forward ? weight.cols : weight.rows;
    // Backward, a task expands whole stretches of a row: several panels side by side.
    const std::int64_t group = forward ? 1 : kExpandCols / gemm_kernel(dtype).nr;
    const std::int64_t panels = divide_up(outer, gemm_kernel(dtype).nr);
    pool_.run(divide_up(panels, group), [&](std::int64_t task, int thread) {
        pack_panels(weight, orientation, dtype, task * group,
                    std::min(group, panels - task * group), static_cast<std::byte*>(destination),
                    reinterpret_cast<float*>(scratch(thread)));
    });
    return {destination, inner, outer, dtype};
}

/// Elements [first, first + count) of a row, its factor applied.
void CpuBackend::expand_row(const WeightView& weight, std::int64_t row, std::int64_t first,
                            std::int64_t count, float* out) const {
    kernels_.expand(weight, row * weight.cols + first, count, out);
    if (weight.row_factors == nullptr) return;
    kernels_.copy_scaled({out, false}, weight.row_factors[row], {out, false}, count);
}

void CpuBackend::pack_panels(const WeightView& weight, Orientation orientation, DType dtype,
                             std::int64_t first, std::int64_t count, std::byte* destination,
                             float* lines) const {
    const GemmKernel& g = gemm_kernel(dtype);
    const bool forward = orientation == Orientation::kForward;
    const std::int64_t outer = forward ? weight.rows : weight.cols;
    const std::int64_t inner = forward ? weight.cols : weight.rows;
    const std::int64_t panel_bytes = round_up(inner, g.k_step) * g.nr * g.b_bytes;
    const std::int64_t n0 = first * g.nr, n1 = std::min(outer, (first + count) * g.nr);
    const std::int64_t step = forward ? kExpandCols : kExpandRows;
    for (std::int64_t k0 = 0; k0 < inner; k0 += step) {
        const std::int64_t k = std::min(step, inner - k0);
        if (forward) {
            for (std::int64_t n = n0; n < n1; ++n) {
                expand_row(weight, n, k0, k, lines + (n - n0) * kExpandCols);
            }
        } else {
            for (std::int64_t i = 0; i < k; ++i) {
                expand_row(weight, k0 + i, n0, n1 - n0, lines + i * kExpandCols);
            }
        }
        for (std::int64_t n = n0; n < n1; n += g.nr) {
            std::byte* out = destination + n / g.nr * panel_bytes + k0 * g.nr * g.b_bytes;
            const std::int64_t cols = std::min<std::int64_t>(g.nr, n1 - n);
            if (forward) {
                g.pack_b_transposed({lines, false}, kExpandCols, k, cols, out);
            } else {
                g.pack_b({lines + (n - n0), false}, kExpandCols, k, cols, out);
            }
        }
    }
}

void CpuBackend::gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) {
    const GemmCall call{terms, bias, c, accumulate};
    gemms({&call, 1});
}

void CpuBackend::gemms(std::span<const GemmCall> calls) {
    check(!calls.empty() && !calls[0].terms.empty(), "gemm has a term");
    const DType dtype = calls[0].terms[0].b.dtype;
    const std::int64_t row_count = calls[0].c.rows();
    for (const auto& [terms, bias, c, accumulate] : calls) {
        check(!accumulate || c.dtype() == DType::kF32, "gemm accumulates into fp32");
        check(bias.empty() || bias.count() == c.cols(), "gemm's bias has one element a column");
        check(!terms.empty() && c.rows() == row_count, "products of a group have the same rows");
        for (const auto& [a, b] : terms) {
            check(a.rows() == row_count && a.cols() == b.inner && b.outer == c.cols(),
                  "gemm operands fit");
            check(b.dtype == dtype, "the terms of a gemm are packed to one dtype");
        }
    }
    const GemmKernel& g = gemm_kernel(dtype);
    Operands operands(g, calls);
    const std::int64_t chunk = kPackBytes / operands.strip_bytes() * g.mr;
    if (chunk < row_count && calls.size() == 1 && resumes(calls[0]))
        return gemm_in_ranges(calls[0], operands);
    check(chunk > 0, "a strip of gemm's inner dimension fits the workspace");
    for (std::int64_t row = 0; row < row_count; row += chunk) {
        const std::int64_t rows = std::min(chunk, row_count - row);
        operands.start_chunk(workspace_.get(), divide_up(rows, g.mr));
        for (const GemmCall& call : calls) multiply_chunk(call, operands, row, rows);
    }
}

/// Can its chains of sums rest in c?
bool CpuBackend::resumes(const GemmCall& call) {
    return call.terms.size() == 1 && call.bias.empty() && !call.accumulate &&
           call.c.dtype() == DType::kF32;
}

/// For an inner dimension so long that few rows of it fit the workspace, and all of the weight
/// would be read for those: a range of it at a time, for many rows, whose chains of sums rest in c.
void CpuBackend::gemm_in_ranges(const GemmCall& call, Operands& operands) {
    const GemmKernel& g = gemm_kernel(call.terms[0].b.dtype);
    Operands::Operand& operand = operands.of(call.terms[0].a);
    const std::int64_t row_count = call.c.rows();
    const std::int64_t chunk =
        std::min(round_up(row_count, g.mr), kRangeBytes / (kRangeLeast * g.a_bytes) / g.mr * g.mr);
    const std::int64_t length = kRangeBytes / (chunk * g.a_bytes) / kInnerBlock * kInnerBlock;
    for (std::int64_t row = 0; row < row_count; row += chunk) {
        const std::int64_t rows = std::min(chunk, row_count - row);
        for (std::int64_t k = 0; k < operand.inner; k += length) {
            Operands::set_range(g, operand, k, length);
            operands.start_chunk(workspace_.get(), divide_up(rows, g.mr));
            multiply_chunk(call, operands, row, rows);
        }
    }
}

/// Rows of a call's result, from what its operands' strips hold once they are packed.
void CpuBackend::multiply_chunk(const GemmCall& call, Operands& operands, std::int64_t first_row,
                                std::int64_t rows) {
    pack_strips(call, operands, first_row, rows);
    const Blocks blocks(gemm_kernel(call.terms[0].b.dtype), rows, call.c.cols(), threads());
    const Tensor part = call.c.row_range(first_row, rows);
    pool_.run(blocks.count, [&](std::int64_t block, int thread) {
        gemm_block(call, operands, blocks, block, part, reinterpret_cast<float*>(scratch(thread)));
    });
}

/// Packs what the call reads and no call before it has.
void CpuBackend::pack_strips(const GemmCall& call, Operands& operands, std::int64_t first_row,
                             std::int64_t rows) {
    const GemmKernel& g = gemm_kernel(call.terms[0].b.dtype);
    const std::int64_t strips = divide_up(rows, g.mr);
    for (const GemmTerm& term : call.terms) {
        Operands::Operand& operand = operands.of(term.a);
        if (operand.packed) continue;
        operand.packed = true;
        auto pack_one = [&](std::int64_t strip, int) {
            const std::int64_t row = strip * g.mr, stride = operand.a.cols();
            const auto element = static_cast<std::int64_t>(bytes_of(operand.a.dtype()));
            In from = in_of(operand.a.row_range(first_row + row, 1));
            from.data = static_cast<const std::byte*>(from.data) + operand.begin * element;
            g.pack_a(from, stride, std::min<std::int64_t>(g.mr, rows - row),
                     std::min(operand.end, stride) - operand.begin,
                     operand.strips + strip * operand.strip_bytes);
        };
        if (strips * operand.strip_bytes < kInlineBytes) {
            for (std::int64_t strip = 0; strip < strips; ++strip) pack_one(strip, 0);
        } else {
            pool_.run(strips, pack_one);
        }
    }
}

/// The inner dimension of a call's terms, one after the other, in visits of about kInnerBlock: a
/// long term takes several, short ones share one, LoRA's with the end of the term before it.
class CpuBackend::Visit {
  public:
    Visit(const GemmCall& call, const Operands& operands, const GemmKernel& g)
        : call_(call), operands_(operands), g_(g) {
        k_ = operands.of(call.terms[0].a).begin;
    }

    /// Goes to the next visit, the first at first, and to its parts of a panel and a strip; false
    /// after the last.
    bool next(std::int64_t panel, std::int64_t strip) {
        first_ = count_ == 0;
        count_ = 0;
        for (std::int64_t sum = 0; term_ < call_.terms.size() && count_ < kMost;) {
            const GemmTerm& term = call_.terms[term_];
            const Operands::Operand& operand = operands_.of(term.a);
            const std::int64_t length = operand.end - operand.begin;
            const std::int64_t block =
                round_up(divide_up(length, divide_up(length, kInnerBlock)), 32);
            const std::int64_t k = std::min(block, operand.end - k_);
            sum += k;
            if (count_ > 0 && k > kInnerShort && sum > kInnerBlock) break;
            strip_bytes_[count_] = operand.strip_bytes;
            parts_[count_++] = {operand.strips + strip * operand.strip_bytes +
                                    (k_ - operand.begin) * g_.mr * g_.a_bytes,
                                static_cast<const std::byte*>(term.b.data) +
                                    (panel * operand.inner + k_) * g_.nr * g_.b_bytes,
                                k};
            k_ += k;
            if (k_ < operand.end) continue;
            k_ = 0;
            ++term_;
        }
        return count_ > 0;
    }
    void next_strip() {
        for (int i = 0; i < count_; ++i)
            parts_[i].strip = static_cast<const std::byte*>(parts_[i].strip) + strip_bytes_[i];
    }
    bool is_first() const { return first_; }
    bool is_last() const { return term_ == call_.terms.size(); }
    const GemmPart* parts() const { return parts_; }
    int count() const { return count_; }

  private:
    static constexpr int kMost = 4;
    const GemmCall& call_;
    const Operands& operands_;
    const GemmKernel& g_;
    GemmPart parts_[kMost];
    std::int64_t strip_bytes_[kMost];
    int count_ = 0;
    std::size_t term_ = 0;  ///< where the next visit begins
    std::int64_t k_ = 0;
    bool first_ = true;
};

void CpuBackend::gemm_block(const GemmCall& call, const Operands& operands, const Blocks& blocks,
                            std::int64_t block, Tensor c, float* tiles) const {
    const GemmKernel& g = blocks.g;
    const std::int64_t strip0 = block % blocks.row_blocks * blocks.strips_each;
    const std::int64_t strip1 = std::min(blocks.strips, strip0 + blocks.strips_each);
    const std::int64_t panel0 = block / blocks.row_blocks * blocks.panels_each;
    const std::int64_t panel1 = std::min(blocks.panels, panel0 + blocks.panels_each);
    const std::int64_t tile_size = std::int64_t{g.mr} * g.nr;
    const float* bias = call.bias.empty() ? nullptr : call.bias.as<float>();
    const bool narrow = c.dtype() == DType::kBF16;
    const bool resumed = operands.of(call.terms[0].a).begin > 0;
    const auto at = [&](std::int64_t row, std::int64_t col) {
        const auto element = static_cast<std::int64_t>(bytes_of(c.dtype()));
        return static_cast<std::byte*>(c.data()) + (row * blocks.cols + col) * element;
    };
    // The tiles of one panel, what a visit reads of the panel and of one strip stay in L1.
    for (std::int64_t p = panel0; p < panel1; ++p) {
        for (Visit visit(call, operands, g); visit.next(p, strip0);) {
            for (std::int64_t s = strip0; s < strip1; ++s, visit.next_strip()) {
                const std::int64_t row = s * g.mr, col = p * g.nr;
                const std::int64_t rows = std::min<std::int64_t>(g.mr, blocks.rows - row);
                const std::int64_t cols = std::min<std::int64_t>(g.nr, blocks.cols - col);
                float* tile = tiles + (s - strip0) * tile_size;
                for (std::int64_t i = 0; resumed && visit.is_first() && i < rows; ++i)
                    std::memcpy(tile + i * g.nr, at(row + i, col),
                                static_cast<std::size_t>(cols) * sizeof(float));
                // c is not in the cache: it comes while the tile is summed up.
                for (std::int64_t i = 0; visit.is_last() && i < rows; ++i)
                    __builtin_prefetch(at(row + i, col), 1);
                g.tile(visit.parts(), visit.count(), static_cast<int>(rows), tile,
                       visit.is_first() && !resumed);
                if (!visit.is_last()) continue;
                kernels_.store_tile(tile, g.nr, rows, cols, bias == nullptr ? nullptr : bias + col,
                                    {at(row, col), narrow}, blocks.cols, call.accumulate);
            }
        }
    }
}

void CpuBackend::gemm_rows(Tensor a, Tensor b, float factor, DType dtype, Tensor c, bool transposed,
                           bool accumulate) {
    const std::int64_t m_count = a.cols(), k_count = b.cols();
    check(a.rows() == b.rows() && c.count() == m_count * k_count, "gemm_rows operands fit");
    check(c.dtype() == DType::kF32, "gemm_rows writes fp32");
    const GemmKernel& g = gemm_kernel(dtype);
    const std::int64_t panels = divide_up(k_count, g.nr),
                       row_blocks = divide_up(m_count, kTileRows);
    const std::int64_t each = std::clamp<std::int64_t>(
        row_blocks * panels / (std::int64_t{4} * threads()), 1, kTileCols / g.nr);
    pool_.run(row_blocks * divide_up(panels, each), [&](std::int64_t task, int thread) {
        const std::int64_t panel = task / row_blocks * each;
        RowsBlock block{a, b, factor, dtype, c, transposed, accumulate};
        block.m0 = task % row_blocks * kTileRows;
        block.m1 = std::min(m_count, block.m0 + kTileRows);
        block.k0 = panel * g.nr;
        block.k1 = std::min(k_count, (panel + each) * g.nr);
        gemm_rows_block(block, scratch(thread));
    });
}

void CpuBackend::gemm_rows_block(const RowsBlock& x, std::byte* scratch_bytes) const {
    const GemmKernel& g = gemm_kernel(x.dtype);
    const std::int64_t rows = x.a.rows(), m_count = x.a.cols(), k_count = x.b.cols();
    const std::int64_t tile_size = std::int64_t{g.mr} * g.nr;
    const std::int64_t strips = divide_up(x.m1 - x.m0, g.mr);
    auto* tiles = reinterpret_cast<float*>(scratch_bytes);
    std::byte* strip_data = scratch_bytes + kTileBytes;
    std::byte* panel = strip_data + kTileRows * kRowsInner * 4;
    auto element = [](const Tensor& t, std::int64_t at) {
        return In{static_cast<const std::byte*>(t.data()) +
                      at * static_cast<std::int64_t>(bytes_of(t.dtype())),
                  t.dtype() == DType::kBF16};
    };
    for (std::int64_t n = 0; n < rows; n += kRowsInner) {
        const std::int64_t count = std::min(kRowsInner, rows - n);
        const std::int64_t inner = round_up(count, g.k_step);
        const std::int64_t strip_bytes = kRowsInner * g.mr * g.a_bytes;
        for (std::int64_t s = 0; s < strips; ++s) {
            const std::int64_t m = x.m0 + s * g.mr;
            g.pack_a_transposed(element(x.a, n * m_count + m), m_count,
                                std::min<std::int64_t>(g.mr, x.m1 - m), count,
                                strip_data + s * strip_bytes);
        }
        for (std::int64_t k = x.k0, p = 0; k < x.k1; k += g.nr, ++p) {
            g.pack_b(element(x.b, n * k_count + k), k_count, count,
                     std::min<std::int64_t>(g.nr, x.k1 - k), panel);
            for (std::int64_t s = 0; s < strips; ++s) {
                const GemmPart part{strip_data + s * strip_bytes, panel, inner};
                g.tile(&part, 1,
                       static_cast<int>(std::min<std::int64_t>(g.mr, x.m1 - x.m0 - s * g.mr)),
                       tiles + (p * strips + s) * tile_size, n == 0);
            }
        }
    }
    float* c = x.c.as<float>();
    for (std::int64_t m = x.m0; m < x.m1; ++m) {
        const std::int64_t strip = (m - x.m0) / g.mr, line = (m - x.m0) % g.mr;
        for (std::int64_t k = x.k0; k < x.k1; ++k) {
            const std::int64_t p = (k - x.k0) / g.nr, lane = (k - x.k0) % g.nr;
            const float sum =
                rows == 0 ? 0.0f : tiles[(p * strips + strip) * tile_size + line * g.nr + lane];
            float& to = c[x.transposed ? k * m_count + m : m * k_count + k];
            to = x.accumulate ? to + x.factor * sum : x.factor * sum;
        }
    }
}

}  // namespace qshard::cpu
