#pragma once

#include "ops.h"
#include "spec/layout.h"
#include "tensor/int8.h"
#include "tensor/nf4.h"

/// Weights in every form they are stored in.
namespace qshard::ops {

/// A weight in host arrays, and its view in a backend's memory.
struct Weight {
    std::int64_t rows = 0, cols = 0;
    Storage storage = Storage::kPlain;
    bool double_quant = false;
    Array plain;
    float scale = 1.0f;
    std::vector<std::uint8_t> codes, q;
    std::vector<float> absmax, absmax2, offset = {0.0f};

    WeightView view(Memory& memory) const {
        WeightView v;
        v.storage = storage;
        v.rows = rows;
        v.cols = cols;
        v.scale = scale;
        if (storage == Storage::kPlain) {
            v.plain = memory.put(plain);
            return v;
        }
        v.codes = memory.put(codes);
        v.double_quant = double_quant;
        if (double_quant) {
            v.absmax_codes = memory.put(q);
            v.absmax2 = memory.put(absmax2);
            v.absmax_offset = memory.put(offset);
        } else {
            v.absmax = memory.put(absmax);
        }
        return v;
    }
};

inline Weight plain_weight(std::uint64_t seed, std::int64_t rows, std::int64_t cols, DType dtype,
                           float magnitude, float scale = 1.0f) {
    Weight w;
    w.rows = rows;
    w.cols = cols;
    w.plain = random(seed, {rows, cols}, dtype, magnitude);
    w.scale = scale;
    return w;
}

inline Weight quantized_weight(std::uint64_t seed, std::int64_t rows, std::int64_t cols,
                               WeightForm form, float magnitude) {
    Weight w;
    w.rows = rows;
    w.cols = cols;
    w.storage = form.storage;
    w.double_quant = form.double_quant;
    const Array x = random(seed, {rows, cols}, DType::kF32, magnitude);
    std::vector<float> values;
    for (std::int64_t i = 0; i < x.count(); ++i) values.push_back(x.at(i));
    if (form.storage == Storage::kInt8) {
        w.codes.resize(values.size());
        w.absmax.resize(static_cast<std::size_t>(rows));
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::span<float> line(values.data() + row * cols, static_cast<std::size_t>(cols));
            auto* codes = reinterpret_cast<std::int8_t*>(w.codes.data()) + row * cols;
            quantize_int8_row(line, codes, &w.absmax[static_cast<std::size_t>(row)]);
        }
        return w;
    }
    const std::size_t blocks = (values.size() + 63) / 64;
    w.codes.resize((values.size() + 1) / 2);
    w.absmax.resize(blocks);
    quantize_four_bit(four_bit_code(form.storage), values, w.codes.data(), w.absmax.data());
    w.q.resize(blocks);
    w.absmax2.resize((blocks + 255) / 256);
    w.offset[0] = mean_absmax(w.absmax);
    double_quantize(w.absmax, w.offset[0], w.q.data(), w.absmax2.data());
    return w;
}

inline Packed packed(Backend& b, Memory& memory, const Weight& w, Orientation orientation,
                     DType dtype) {
    void* destination = memory.raw(b.packed_bytes(w.rows, w.cols, orientation, dtype));
    return b.pack(w.view(memory), orientation, dtype, destination);
}

constexpr WeightForm kNf4Double = {Storage::kNf4, true};
constexpr WeightForm kForms[] = {
    kNf4Double, {Storage::kNf4, false}, {Storage::kFp4, true}, {Storage::kInt8, false}};

}  // namespace qshard::ops
