#include "backend/backend.h"

#include <type_traits>
#include <vector>

#include "tensor/arena.h"

namespace qshard {

WeightView view_of(const Field& field, const std::byte* unit) {
    WeightView view;
    view.storage = field.storage;
    view.rows = field.weight.rows;
    view.cols = field.weight.cols;
    if (field.storage == Storage::kPlain) {
        view.plain = Tensor(const_cast<std::byte*>(unit + field.data), field.dtype,
                            {field.weight.rows, field.weight.cols});
        return view;
    }
    view.codes = reinterpret_cast<const std::uint8_t*>(unit + field.data);
    view.double_quant = field.double_quant;
    if (field.double_quant) {
        view.absmax_codes = reinterpret_cast<const std::uint8_t*>(unit + field.absmax);
        view.absmax2 = reinterpret_cast<const float*>(unit + field.absmax2);
        view.absmax_offset = reinterpret_cast<const float*>(unit + field.offset);
    } else {
        view.absmax = reinterpret_cast<const float*>(unit + field.absmax);
    }
    return view;
}

void drop_range(const DropoutMask& mask, const Tensor& x, bool accumulate, const Tensor& y,
                std::int64_t first, std::int64_t count) {
    const float scale = mask.scale();
    const auto run = [&](auto load, auto* out) {
        using Out = std::remove_pointer_t<decltype(out)>;
        mask.each(first, count, [&](std::int64_t i, bool kept) {
            const float value = kept ? scale * load(i) : 0.0f;
            if constexpr (std::is_same_v<Out, float>) {
                out[i] = accumulate ? out[i] + value : value;
            } else {
                out[i] = to_bf16(value);
            }
        });
    };
    const auto from = [&](auto load) {
        if (y.dtype() == DType::kF32) {
            run(load, y.as<float>());
        } else {
            run(load, y.as<bf16>());
        }
    };
    if (x.dtype() == DType::kF32) {
        from([in = x.as<float>()](std::int64_t i) { return in[i]; });
    } else {
        from([in = x.as<bf16>()](std::int64_t i) { return to_float(in[i]); });
    }
}

void check_dropout(const Tensor& x, bool accumulate, const Tensor& y) {
    check(x.count() == y.count() && (!accumulate || y.dtype() == DType::kF32),
          "dropout operands fit");
}

void Backend::dropout(const DropoutMask& mask, Tensor x, bool accumulate, Tensor y) {
    check_dropout(x, accumulate, y);
    std::vector<std::byte> in(x.bytes()), out(y.bytes());
    synchronize();
    download(in.data(), x.data(), in.size());
    if (accumulate) download(out.data(), y.data(), out.size());
    drop_range(mask, Tensor(in.data(), x.dtype(), {x.count()}), accumulate,
               Tensor(out.data(), y.dtype(), {y.count()}), 0, x.count());
    upload(y.data(), out.data(), out.size());
    synchronize();
}

std::size_t Backend::packed_alone_bytes(std::int64_t rows, std::int64_t cols, DType dtype,
                                        bool backward) const {
    if (serves_both(cols, dtype)) return packed_bytes(rows, cols, Orientation::kBackward, dtype);
    const std::size_t forward =
        Scratch::aligned(packed_bytes(rows, cols, Orientation::kForward, dtype));
    return backward ? forward + packed_bytes(rows, cols, Orientation::kBackward, dtype) : forward;
}

PackedPair Backend::pack_alone(const WeightView& weight, DType dtype, bool backward,
                               void* destination) {
    PackedPair pair;
    if (serves_both(weight.cols, dtype)) {
        const Packed both = pack(weight, Orientation::kBackward, dtype, destination);
        pair.forward = {both.data, weight.cols, weight.rows, dtype, true};
        if (backward) pair.backward = both;
        return pair;
    }
    pair.forward = pack(weight, Orientation::kForward, dtype, destination);
    if (!backward) return pair;
    auto* second =
        static_cast<std::byte*>(destination) +
        Scratch::aligned(packed_bytes(weight.rows, weight.cols, Orientation::kForward, dtype));
    pair.backward = pack(weight, Orientation::kBackward, dtype, second);
    return pair;
}

void Backend::gemm_rows_of_slots(Tensor a, Tensor b, std::span<const std::int64_t> begin,
                                 float scale, DType dtype, Tensor c, std::int64_t stride,
                                 bool transposed) {
    for (std::size_t s = 0; s + 1 < begin.size(); ++s) {
        const std::int64_t rows = begin[s + 1] - begin[s];
        const Tensor one(c.as<float>() + static_cast<std::int64_t>(s) * stride, DType::kF32,
                         {c.rows(), c.cols()});
        if (rows == 0) {
            fill_zero(one);
        } else {
            gemm_rows(a.row_range(begin[s], rows), b.row_range(begin[s], rows), scale, dtype, one,
                      transposed, false);
        }
    }
}

WeightView rows_of(const WeightView& weight, std::int64_t first, std::int64_t count) {
    check(first >= 0 && count >= 0 && first + count <= weight.rows, "the weight has these rows");
    WeightView part = weight;
    part.rows = count;
    if (weight.row_factors != nullptr) part.row_factors += first;
    if (weight.storage == Storage::kPlain) {
        part.plain = weight.plain.row_range(first, count);
    } else {
        part.first += first * weight.cols;
    }
    return part;
}

}  // namespace qshard
