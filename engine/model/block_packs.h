#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "backend/backend.h"
#include "model/norm.h"
#include "spec/adapter.h"

/// One decoder layer made ready for arithmetic: its linears expanded into gemm operands, its LoRA
/// factors packed, its norms and biases copied out. The unit's own bytes are not needed afterwards,
/// so the next one can be fetched.
namespace qshard {

/// Which expansions a visit of a layer needs.
struct Directions {
    bool forward = true;
    bool backward = false;
    bool unscaled = false;  ///< and W of DoRA's linears once more, without its row factors
};

/// An adapter's numbers on the backend.
struct AdapterValues {
    const float* flat = nullptr;   ///< the flat vector
    float* row_factors = nullptr;  ///< DoRA: [AdapterLayout::rows], what measure_rows() makes
};

/// One linear y = x W^T + bias + scale B (A x), as gemm operands; with DoRA the rows of W and of
/// scale B are packed times their row factors, and W as it is where Directions ask for it. Parts of
/// a fused linear share A: its first part has a_forward, its last a_backward, and each its own rows
/// of B.
struct LinearPack {
    const AdapterTarget* target = nullptr;  ///< null: no adapter here
    std::int64_t expert = 0;                ///< whose A, of a mixture's target
    std::int64_t first_row = 0;             ///< of B (of all experts), where this part begins
    Role role = Role::kCount;
    Packed forward, backward;
    Packed unscaled_forward, unscaled_backward;  ///< null without DoRA and dropout
    Packed a_forward, b_forward;                 ///< u = x A^T;  y += u (scale B)^T
    Packed a_backward, b_backward;               ///< dx += du A; du = dy (scale B)
    Tensor bias;                                 ///< fp32 [out] or empty
    std::int64_t trained_bias = -1;  ///< where it is in the flat vector, if it is trained
    Tensor magnitude, row_factor;    ///< fp32 [out] or empty
};

/// The linears of one expert of a mixture. Gate and up share A: gate has a_forward, up a_backward.
struct ExpertPacks {
    LinearPack gate, up, down;
};

struct BlockPacks {
    std::array<LinearPack, static_cast<std::size_t>(Role::kCount)>
        linear;  ///< by role (of the parts, where it is fused); empty where the layer has none
    std::array<Tensor, static_cast<std::size_t>(Role::kCount)> vector;  ///< norms and biases, fp32
    const AdapterLayout* adapter = nullptr;
    std::size_t range = 0;  ///< of the flat vector

    std::vector<ExpertPacks> experts;
    LinearPack router;  ///< fp32

    const LinearPack& at(Role role) const { return linear[static_cast<std::size_t>(role)]; }
    const Tensor& gain(Role role) const { return vector[static_cast<std::size_t>(role)]; }
    /// Null unless that vector is trained.
    const TrainedWeight* trained(Role role) const {
        return adapter == nullptr ? nullptr : adapter->find_weight(range, role);
    }
    /// A norm over the model's width; its bias has the role after its gain's, where it has one.
    Norm norm(Role role) const {
        const bool biased = role == Role::kNorm1 || role == Role::kNorm2;
        return {gain(role), biased ? vector[static_cast<std::size_t>(role) + 1] : Tensor()};
    }
};

/// Bytes that prepare_block() writes, for the layer `unit`.
std::size_t block_pack_bytes(const Backend& backend, const UnitLayout& unit, std::int64_t layer,
                             const AdapterLayout* adapter, DType compute, Directions directions);

/// Expands layer `layer` from `bytes` (a unit laid out as `unit`) and `values` (ignored if
/// `adapter` is null; with DoRA their row factors are those of this base and these values) into
/// `destination`.
BlockPacks prepare_block(Backend& backend, const UnitLayout& unit, const std::byte* bytes,
                         std::int64_t layer, const AdapterLayout* adapter,
                         const AdapterValues& values, DType compute, Directions directions,
                         std::byte* destination);

/// What measure_rows() is asked for.
enum class RowMeasure : std::uint8_t {
    kNorm,    ///< ||W + scale B A|| of each row
    kFactor,  ///< its magnitude over that
};
/// Fills the rows of the layer's targets in values.row_factors; nothing without DoRA.
void measure_rows(Backend& backend, const UnitLayout& unit, const std::byte* bytes,
                  std::int64_t layer, const AdapterLayout& adapter, const AdapterValues& values,
                  RowMeasure measure);

}  // namespace qshard
