#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/operands.h"
#include "backend/cuda/sizes.h"
#include "backend/cuda/tiles.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"

/// Matrix products. LoRA costs no pass of its own: where the weights of consecutive terms lie one
/// after the other, their operands are laid out side by side and one product sums over all of them.
namespace qshard::cuda {

/// Terms whose weights are rows of one matrix [inner, outer].
struct CudaBackend::Run {
    std::span<const GemmTerm> terms;
    std::int64_t inner = 0;  ///< filled
};

namespace {

std::int64_t filled(const Packed& b) {
    return cuda::filled(b.inner, b.dtype == DType::kBF16);
}

}  // namespace

std::size_t CudaBackend::packed_bytes(std::int64_t rows, std::int64_t cols, Orientation orientation,
                                      DType dtype) const {
    return cuda::packed_bytes(rows, cols, orientation, dtype);
}

StoredWeight CudaBackend::stored(const WeightView& weight) const {
    StoredWeight stored{};
    stored.rows = weight.rows;
    stored.cols = weight.cols;
    stored.row_factors = weight.row_factors;
    if (weight.storage == Storage::kPlain) {
        stored.kind = WeightKind::kPlain;
        stored.plain = in_of(weight.plain);
        stored.factor = weight.scale;
    } else if (weight.storage == Storage::kInt8) {
        stored.kind = WeightKind::kInt8;
        const auto* codes = reinterpret_cast<const std::int8_t*>(weight.codes);
        stored.int8 = {codes, weight.first, weight.cols, weight.absmax, kInt8Step};
    } else {
        stored.kind = WeightKind::kCodes;
        CodedWeight& coded = stored.codes;
        coded.codes = weight.codes;
        coded.first = weight.first;
        const auto& table = four_bit_code(weight.storage).table;
        std::copy(table.begin(), table.end(), coded.table);
        coded.absmax = weight.double_quant ? nullptr : weight.absmax;
        coded.absmax_codes = weight.absmax_codes;
        coded.absmax2 = weight.absmax2;
        coded.offset = weight.absmax_offset;
        coded.dynamic_map = dynamic_map_;
    }
    return stored;
}

Packed CudaBackend::pack(const WeightView& weight, Orientation orientation, DType dtype,
                         void* destination) {
    const bool forward = orientation == Orientation::kForward;
    expand(stored(weight), forward, {destination, dtype == DType::kBF16}, stream_);
    require_launched("pack");
    const Packed packed{destination, forward ? weight.cols : weight.rows,
                        forward ? weight.rows : weight.cols, dtype};
    const std::size_t element = bytes_of(dtype);
    const auto used = static_cast<std::size_t>(packed.inner * packed.outer) * element,
               all = static_cast<std::size_t>(filled(packed) * packed.outer) * element;
    if (all > used) {
        require(
            cudaMemsetAsync(static_cast<std::byte*>(destination) + used, 0, all - used, stream_),
            "filling up a weight");
    }
    return packed;
}

void CudaBackend::gemm(std::span<const GemmTerm> terms, Tensor bias, Tensor c, bool accumulate) {
    const GemmCall call{terms, bias, c, accumulate};
    gemms({&call, 1});
}

void CudaBackend::gemms(std::span<const GemmCall> calls) {
    laid_ = {};
    for (const auto& [terms, bias, c, accumulate] : calls) {
        check(!terms.empty(), "gemm has a term");
        check(!accumulate || c.dtype() == DType::kF32, "gemm accumulates into fp32");
        check(bias.empty() || bias.count() == c.cols(), "gemm's bias has one element a column");
        const DType dtype = terms[0].b.dtype;
        for (const GemmTerm& term : terms) {
            check(term.a.rows() == c.rows() && term.a.cols() == term.b.inner &&
                      term.b.outer == c.cols(),
                  "gemm operands fit");
            check(term.b.dtype == dtype, "the terms of a gemm are packed to one dtype");
        }
        if (c.rows() == 0) continue;
        const bool library = dtype == DType::kF32 || tensor_cores_;
        if (!library || !gemm_by_library(terms, bias, c, accumulate))
            plain_gemm_of(terms, bias, c, accumulate);
        require_launched("gemm");
    }
}

void CudaBackend::plain_gemm_of(std::span<const GemmTerm> terms, Tensor bias, Tensor c,
                                bool accumulate) {
    check(terms.size() <= kMaxTerms, "gemm has at most 8 terms");
    const bool bf16 = terms[0].b.dtype == DType::kBF16;
    PlainTerms all{};
    for (const GemmTerm& term : terms) {
        all.term[all.count++] = {in_of(term.a),       term.b.inner, 1,
                                 {term.b.data, bf16}, term.b.inner, term.b.transposed};
    }
    plain_gemm(all, bf16, bias.empty() ? nullptr : bias.as<float>(), out_of(c), c.rows(), c.cols(),
               accumulate, stream_);
}

/// False, and nothing done, if the library does not take the shapes.
bool CudaBackend::gemm_by_library(std::span<const GemmTerm> terms, Tensor bias, Tensor c,
                                  bool accumulate) {
    const std::size_t element = bytes_of(terms[0].b.dtype);
    std::vector<Run> runs;
    std::int64_t widest = 0;
    for (std::size_t t = 0; t < terms.size(); ++t) {
        const bool follows =
            t > 0 && !terms[t - 1].b.transposed && !terms[t].b.transposed &&
            static_cast<const std::byte*>(terms[t - 1].b.data) +
                    static_cast<std::size_t>(filled(terms[t - 1].b) * c.cols()) * element ==
                terms[t].b.data;
        if (!follows) runs.push_back({terms.subspan(t, 0), 0});
        Run& run = runs.back();
        run.terms = {run.terms.data(), run.terms.size() + 1};
        run.inner += filled(terms[t].b);
        widest = std::max(widest, run.inner);
    }
    // Results wait in fp32 for their bias, or for the other runs where c would round in between.
    const bool wait = !bias.empty() || (runs.size() > 1 && c.dtype() == DType::kBF16);
    const auto adds = [&](std::size_t r) { return r > 0 || (accumulate && !wait); };
    const bool rounds = !wait && c.dtype() == DType::kBF16;
    for (std::size_t r = 0; r < runs.size(); ++r)
        if (!matmul_->takes(shape_of(runs[r], c.cols(), rounds, adds(r)))) return false;
    std::int64_t most = library_rows(widest, c.cols(), terms[0].b.dtype == DType::kBF16);
    if (wait) most = std::min(most, static_cast<std::int64_t>(kResultBytes) / (c.cols() * 4));
    const Parts parts(c.rows(), most, std::min<std::int64_t>(most, 64));
    for (std::int64_t p = 0; p < parts.count; ++p) {
        const std::int64_t row = parts.begin(p), rows = parts.end(p) - row;
        const Tensor part = c.row_range(row, rows).reshaped({rows, c.cols()});
        const Tensor target = wait ? Tensor(results_, DType::kF32, {rows, c.cols()}) : part;
        for (std::size_t r = 0; r < runs.size(); ++r) product(runs[r], row, target, adds(r));
        if (!wait) continue;
        add_bias(target.as<float>(), bias.empty() ? nullptr : bias.as<float>(), out_of(part), rows,
                 c.cols(), accumulate, stream_);
    }
    return true;
}

MatmulShape CudaBackend::shape_of(const Run& run, std::int64_t outer, bool rounds,
                                  bool accumulate) {
    const Packed& b = run.terms[0].b;
    return {run.inner, outer, b.dtype == DType::kBF16, b.transposed, rounds, accumulate};
}

/// c = (or +=) rows [row, row + c.rows()) of the run's operands times its weights.
void CudaBackend::product(const Run& run, std::int64_t row, Tensor c, bool accumulate) {
    const GemmTerm& head = run.terms[0];
    const bool alone =
        run.terms.size() == 1 && head.a.dtype() == head.b.dtype && head.b.inner == run.inner;
    const void* a = alone ? head.a.row_range(row, c.rows()).data() : operand_;
    if (!alone) lay_out(run, row, c.rows());
    matmul_->run(shape_of(run, c.cols(), c.dtype() == DType::kBF16, accumulate), c.rows(), a,
                 head.b.data, c.data());
}

/// The run's operands side by side in operand_. The first is left as it is where an earlier product
/// of gemms() has laid it out for rows of the same width: q, k and v read one input.
void CudaBackend::lay_out(const Run& run, std::int64_t row, std::int64_t rows) {
    const DType dtype = run.terms[0].b.dtype;
    const GemmTerm& head = run.terms[0];
    const Laid wanted{head.a.row_range(row, rows).data(), rows, head.b.inner, run.inner, dtype};
    SideBySide parts{};
    std::int64_t column = 0;
    const auto copy = [&] {
        copy_columns(parts, rows, {operand_, dtype == DType::kBF16}, run.inner, stream_);
        parts.count = 0;
    };
    for (std::size_t t = 0; t < run.terms.size(); ++t) {
        const GemmTerm& term = run.terms[t];
        const std::int64_t width = filled(term.b);
        if (t > 0 || laid_ != wanted) {
            parts.part[parts.count++] = {in_of(term.a.row_range(row, rows)), term.b.inner, width,
                                         column};
            if (parts.count == kMaxTerms) copy();
        }
        column += width;
    }
    if (parts.count > 0) copy();
    laid_ = wanted;
}

void CudaBackend::gemm_rows(Tensor a, Tensor b, float factor, DType dtype, Tensor c,
                            bool transposed, bool accumulate) {
    const std::int64_t begin[] = {0, a.rows()};
    rows_products({a, b, begin, factor, dtype, c, 0, transposed, accumulate});
}

void CudaBackend::gemm_rows_of_slots(Tensor a, Tensor b, std::span<const std::int64_t> begin,
                                     float factor, DType dtype, Tensor c, std::int64_t stride,
                                     bool transposed) {
    rows_products({a, b, begin, factor, dtype, c, stride, transposed, false});
}

void CudaBackend::rows_products(const RowsProducts& x) {
    const std::int64_t m_count = x.a.cols(), k_count = x.b.cols();
    check(x.b.rows() == x.a.rows() && x.c.count() == m_count * k_count &&
              x.begin.back() <= x.a.rows(),
          "gemm_rows operands fit");
    RowsCall call{
        in_of(x.a), in_of(x.b), m_count, k_count, 0, 0, reinterpret_cast<float*>(operand_)};
    const bool bf16 = x.dtype == DType::kBF16;
    const RowPasses passes(static_cast<std::int64_t>(kOperandBytes), k_count, kRowsChunk);
    for (const RowsLaunch& launch : rows_launches(x.begin, passes.each, kRowsChunk)) {
        const auto chunks = std::ssize(launch.chunks);
        const RowChunk* chunk_list = staging_->put(std::span(launch.chunks));
        const RowSum* sum_list = staging_->put(std::span(launch.sums));
        const Parts parts = passes.columns(m_count, chunks);
        for (std::int64_t p = 0; p < parts.count; ++p) {
            call.m0 = parts.begin(p);
            call.m1 = parts.end(p);
            gemm_rows_partial(call, chunk_list, chunks, bf16 && tensor_cores_, bf16, stream_);
            gemm_rows_finish(call, sum_list, std::ssize(launch.sums), x.factor, x.c.as<float>(),
                             x.stride, x.transposed, x.accumulate || launch.accumulate, stream_);
        }
    }
    require_launched("gemm_rows");
}

void CudaBackend::row_norms(const WeightView& weight, Tensor a, Tensor b, float factor,
                            Tensor magnitude, Tensor out) {
    const std::int64_t rows = weight.rows, r = a.rows();
    check(a.cols() == weight.cols && b.rows() == rows && b.cols() == r && out.count() == rows &&
              (magnitude.empty() || magnitude.count() == rows) && r <= 1024,
          "row_norms operands fit");
    cuda::row_norms(stored(weight),
                    {rows, weight.cols, r, a.as<float>(), b.as<float>(), factor,
                     magnitude.empty() ? nullptr : magnitude.as<float>(), out.as<float>()},
                    stream_);
    require_launched("row_norms");
}

void CudaBackend::magnitude_backward(Tensor dy, Tensor y, Tensor bias, Tensor magnitude,
                                     Tensor factor, Tensor db, Tensor dmagnitude) {
    const std::int64_t cols = dy.cols();
    check(y.rows() == dy.rows() && y.cols() == cols && db.rows() == cols &&
              magnitude.count() == cols && factor.count() == cols && dmagnitude.count() == cols &&
              (bias.empty() || bias.count() == cols),
          "magnitude_backward operands fit");
    cuda::magnitude_backward(
        in_of(dy), in_of(y),
        {dy.rows(), cols, db.cols(), bias.empty() ? nullptr : bias.as<float>(),
         magnitude.as<float>(), factor.as<float>(), db.as<float>(), dmagnitude.as<float>()},
        stream_);
    require_launched("magnitude_backward");
}

}  // namespace qshard::cuda
