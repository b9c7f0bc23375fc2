#include "backend/backend.h"

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

WeightView rows_of(const WeightView& weight, std::int64_t first, std::int64_t count) {
    check(first >= 0 && count >= 0 && first + count <= weight.rows, "the weight has these rows");
    WeightView part = weight;
    part.rows = count;
    if (weight.storage == Storage::kPlain) {
        part.plain = weight.plain.row_range(first, count);
    } else {
        part.first += first * weight.cols;
    }
    return part;
}

}  // namespace qshard
