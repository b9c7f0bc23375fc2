#pragma once

#include "backend/cpu/attention_backward.h"
#include "backend/cpu/expand.h"
#include "backend/cpu/gemm_fma.h"
#include "backend/cpu/optimizer.h"
#include "backend/cpu/rows.h"

namespace qshard::cpu {
namespace {

/// The kernels as the including file's machine flags make them, with multiply-add products.
constexpr Kernels kernel_table(const char* name) {
    Kernels k{};
    k.name = name;
    k.f32 = fma_gemm<false>();
    k.bf16 = fma_gemm<true>();
    k.bf16_attention = false;
    k.expand = expand_weight;
    k.store_tile = store_tile_any;
    k.attention_scratch = attention_scratch_bytes;
    k.attention = attention_forward;
    k.attention_backward = attention_backward;
    k.rms_norm = rms_norm_rows;
    k.rms_norm_backward = rms_norm_backward_rows;
    k.layer_norm = layer_norm_rows;
    k.layer_norm_backward = layer_norm_backward_rows;
    k.row_dots = row_dots;
    k.column_dots = column_dots;
    k.rope = rope_token;
    k.log_softmax = log_softmax_row;
    k.copy_scaled = copy_scaled_elements;
    k.add = add_elements;
    k.activate = activate_elements;
    k.activate_backward = activate_backward_elements;
    k.sum_of_squares = sum_of_squares_chunks;
    k.adamw = adamw_elements;
    k.sgd = sgd_elements;
    k.rmsprop = rmsprop_elements;
    k.spin_multiply_adds = spin;
    return k;
}

}  // namespace
}  // namespace qshard::cpu
