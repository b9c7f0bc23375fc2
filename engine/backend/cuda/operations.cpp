#include <cmath>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/operands.h"
#include "backend/cuda/sizes.h"

/// Operations of the CUDA backend that are one kernel each: checks, then a launch.
namespace qshard::cuda {
namespace {

void check_rows(std::span<const std::int32_t> rows, std::int64_t limit, const char* what) {
    for (std::int32_t row : rows) check(row >= 0 && row < limit, what);
}

}  // namespace

void CudaBackend::copy(Tensor in, Tensor out) {
    check(in.count() == out.count(), "copy keeps the count");
    copy_scaled(in_of(in), 1.0f, out_of(out), in.count(), stream_);
    require_launched("copy");
}

void CudaBackend::embed(Tensor table, std::span<const std::int32_t> ids, float factor, Tensor x) {
    const auto count = static_cast<std::int64_t>(ids.size());
    check(x.count() == count * table.cols(), "embed's result has one row a token");
    check_rows(ids, table.rows(), "token id lies in the vocabulary");
    pick_rows(in_of(table), staging_->put(ids), count, table.cols(), factor, false, out_of(x),
              stream_);
    require_launched("embed");
}

void CudaBackend::embed_backward(Tensor dx, std::span<const std::int32_t> ids, float factor,
                                 Tensor dtable) {
    const auto count = static_cast<std::int64_t>(ids.size());
    check(dx.count() == count * dtable.cols(), "embed's derivative has one row a token");
    for (std::int32_t id : ids) check(id < dtable.rows(), "token id lies in the vocabulary");
    cuda::embed_backward(dx.as<float>(), staging_->put(ids), count, dtable.cols(), factor,
                         dtable.as<float>(), stream_);
    require_launched("embed_backward");
}

void CudaBackend::rms_norm(Tensor x, Tensor gain, float eps, bool offset, Tensor y) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && y.count() == x.count(), "rms_norm operands fit");
    cuda::rms_norm(in_of(x), gain.as<float>(), eps, offset, out_of(y), x.count() / width, width,
                   stream_);
    require_launched("rms_norm");
}

void CudaBackend::rms_norm_backward(Tensor x, Tensor gain, float eps, bool offset, Tensor dy,
                                    Tensor dx, bool accumulate) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && dy.count() == x.count() && dx.count() == x.count(),
          "rms_norm_backward operands fit");
    cuda::rms_norm_backward(in_of(x), gain.as<float>(), eps, offset, in_of(dy), dx.as<float>(),
                            accumulate, x.count() / width, width, stream_);
    require_launched("rms_norm_backward");
}

void CudaBackend::layer_norm(Tensor x, Tensor gain, Tensor bias, float eps, Tensor y) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && y.count() == x.count() && bias.count() == width,
          "layer_norm operands fit");
    cuda::layer_norm(in_of(x), gain.as<float>(), bias.as<float>(), eps, out_of(y),
                     x.count() / width, width, stream_);
    require_launched("layer_norm");
}

void CudaBackend::layer_norm_backward(Tensor x, Tensor gain, float eps, Tensor dy, Tensor dx,
                                      bool accumulate) {
    const std::int64_t width = gain.count();
    check(width > 0 && x.count() % width == 0 && dy.count() == x.count() && dx.count() == x.count(),
          "layer_norm_backward operands fit");
    cuda::layer_norm_backward(in_of(x), gain.as<float>(), eps, in_of(dy), dx.as<float>(),
                              accumulate, x.count() / width, width, stream_);
    require_launched("layer_norm_backward");
}

void CudaBackend::rope(Tensor x, std::span<const std::int32_t> positions, Tensor cos, Tensor sin,
                       bool inverse) {
    check(x.rank() == 3, "rope takes [N, heads, D]");
    const auto count = static_cast<std::int64_t>(positions.size());
    const std::int64_t half = cos.cols();
    check(x.dim(0) == count && 2 * half <= x.dim(2), "rope operands fit");
    check_rows(positions, cos.rows(), "a position lies in the rotary table");
    cuda::rope(out_of(x), staging_->put(positions), cos.as<float>(), sin.as<float>(), inverse,
               count, x.dim(1), x.dim(2), half, stream_);
    require_launched("rope");
}

void CudaBackend::activate(Activation kind, Tensor gate, Tensor up, Tensor out) {
    check(up.count() == out.count() && (gate.empty() || gate.count() == up.count()),
          "activate operands fit");
    check(up.dtype() == out.dtype() && (gate.empty() || gate.dtype() == up.dtype()),
          "activate has one dtype");
    cuda::activate(kind, in_of(gate), in_of(up), out_of(out), up.count(), stream_);
    require_launched("activate");
}

void CudaBackend::activate_backward(Activation kind, Tensor gate, Tensor up, Tensor dout,
                                    Tensor dgate, Tensor dup) {
    check(dout.count() == up.count() && dup.count() == up.count() &&
              (gate.empty() || (gate.count() == up.count() && dgate.count() == up.count() &&
                                gate.dtype() == up.dtype())),
          "activate_backward operands fit");
    cuda::activate_backward(kind, in_of(gate), in_of(up), in_of(dout), out_of(dgate), out_of(dup),
                            up.count(), stream_);
    require_launched("activate_backward");
}

void CudaBackend::dropout(const DropoutMask& mask, Tensor x, bool accumulate, Tensor y) {
    check_dropout(x, accumulate, y);
    cuda::dropout(mask, in_of(x), accumulate, out_of(y), x.count(), stream_);
    require_launched("dropout");
}

void CudaBackend::add(Tensor x, float factor, Tensor y) {
    check(x.count() == y.count(), "add operands fit");
    add_scaled(in_of(x), factor, y.as<float>(), y.count(), stream_);
    require_launched("add");
}

void CudaBackend::add_rows(Tensor in, std::span<const std::int32_t> rows,
                           std::span<const float> factors, Tensor out) {
    const auto count = static_cast<std::int64_t>(rows.size());
    check(in.count() == count * out.cols() && factors.size() == rows.size(),
          "add_rows operands fit");
    check_rows(rows, out.rows(), "a row added to exists");
    const std::int32_t* places = staging_->put(rows);
    cuda::add_rows(in_of(in), places, staging_->put(factors), count, out.cols(), out.as<float>(),
                   stream_);
    require_launched("add_rows");
}

void CudaBackend::scale_rows(Tensor x, std::span<const float> factors) {
    check(static_cast<std::int64_t>(factors.size()) == x.rows(), "scale_rows operands fit");
    cuda::scale_rows(out_of(x), staging_->put(factors), x.rows(), x.cols(), stream_);
    require_launched("scale_rows");
}

void CudaBackend::row_dots(Tensor a, Tensor b, Tensor out) {
    check(a.count() == b.count() && out.count() == a.rows(), "row_dots operands fit");
    cuda::row_dots(in_of(a), in_of(b), a.rows(), a.cols(), out.as<float>(), stream_);
    require_launched("row_dots");
}

void CudaBackend::log_softmax(Tensor logits, std::span<const std::int32_t> targets,
                              float logit_scale, float softcap, Tensor dlogprob, Tensor logprob) {
    const std::int64_t rows = logits.rows(), width = logits.cols();
    check(static_cast<std::int64_t>(targets.size()) == rows && logprob.count() == rows &&
              (dlogprob.empty() || dlogprob.count() == rows),
          "log_softmax operands fit");
    check_rows(targets, width, "a target lies in the vocabulary");
    cuda::log_softmax(logits.as<float>(), staging_->put(targets), rows, width, logit_scale, softcap,
                      dlogprob.empty() ? nullptr : dlogprob.as<float>(), logprob.as<float>(),
                      stream_);
    require_launched("log_softmax");
}

void CudaBackend::gather_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) {
    const auto count = static_cast<std::int64_t>(rows.size());
    check(out.count() == count * in.cols(), "gather_rows operands fit");
    check_rows(rows, in.rows(), "a gathered row exists");
    pick_rows(in_of(in), staging_->put(rows), count, in.cols(), 1.0f, false, out_of(out), stream_);
    require_launched("gather_rows");
}

void CudaBackend::scatter_rows(Tensor in, std::span<const std::int32_t> rows, Tensor out) {
    const auto count = static_cast<std::int64_t>(rows.size());
    check(in.count() == count * out.cols(), "scatter_rows operands fit");
    check_rows(rows, out.rows(), "a scattered row exists");
    fill_zero(out);
    pick_rows(in_of(in), staging_->put(rows), count, out.cols(), 1.0f, true, out_of(out), stream_);
    require_launched("scatter_rows");
}

double CudaBackend::sum_of_squares(Tensor x) {
    const std::int64_t chunks = (x.count() + kSquaresChunk - 1) / kSquaresChunk;
    check(static_cast<std::size_t>(chunks) * sizeof(double) <= kOperandBytes,
          "the sums of chunks fit the workspace");
    squares_of_chunks(x.as<float>(), x.count(), reinterpret_cast<double*>(operand_), stream_);
    require_launched("sum_of_squares");
    std::vector<double> sums(static_cast<std::size_t>(chunks));
    download(sums.data(), operand_, sums.size() * sizeof(double));
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
}

void CudaBackend::scale(Tensor x, float factor) {
    copy_scaled(in_of(x), factor, out_of(x), x.count(), stream_);
    require_launched("scale");
}

void CudaBackend::adamw(const AdamW& hyper, Tensor parameter, Tensor gradient, Tensor exp_avg,
                        Tensor exp_avg_sq) {
    check(gradient.count() == parameter.count() && exp_avg.count() == parameter.count() &&
              exp_avg_sq.count() == parameter.count(),
          "adamw operands fit");
    const auto t = static_cast<double>(hyper.step_number);
    AdamWFactors f;
    f.keep = 1.0f - hyper.learning_rate * hyper.weight_decay;
    f.beta1 = hyper.beta1;
    f.rest1 = 1.0f - hyper.beta1;
    f.beta2 = hyper.beta2;
    f.rest2 = 1.0f - hyper.beta2;
    f.step_size =
        static_cast<float>(double{hyper.learning_rate} / (1.0 - std::pow(double{hyper.beta1}, t)));
    f.root = static_cast<float>(std::sqrt(1.0 - std::pow(double{hyper.beta2}, t)));
    f.epsilon = hyper.epsilon;
    cuda::adamw(f, parameter.as<float>(), gradient.as<float>(), exp_avg.as<float>(),
                exp_avg_sq.as<float>(), parameter.count(), stream_);
    require_launched("adamw");
}

void CudaBackend::sgd(const Sgd& hyper, Tensor parameter, Tensor gradient, Tensor momentum) {
    check(gradient.count() == parameter.count() &&
              (momentum.empty() || momentum.count() == parameter.count()),
          "sgd operands fit");
    cuda::sgd({hyper.learning_rate, hyper.momentum, hyper.weight_decay, hyper.step_number == 1},
              parameter.as<float>(), gradient.as<float>(),
              momentum.empty() ? nullptr : momentum.as<float>(), parameter.count(), stream_);
    require_launched("sgd");
}

void CudaBackend::rmsprop(const RmsProp& hyper, Tensor parameter, Tensor gradient,
                          Tensor square_avg, Tensor momentum) {
    check(gradient.count() == parameter.count() && square_avg.count() == parameter.count() &&
              (momentum.empty() || momentum.count() == parameter.count()),
          "rmsprop operands fit");
    cuda::rmsprop(
        {hyper.learning_rate, hyper.alpha, hyper.epsilon, hyper.weight_decay, hyper.momentum},
        parameter.as<float>(), gradient.as<float>(), square_avg.as<float>(),
        momentum.empty() ? nullptr : momentum.as<float>(), parameter.count(), stream_);
    require_launched("rmsprop");
}

}  // namespace qshard::cuda
