#pragma once

#include <string>

#include "io/peft/expert_tensors.h"

/// Adapters of mixtures from before transformers 5, when the router and every matrix of every
/// expert were linears of their own: "...block_sparse_moe.experts.3.w1",
/// "...mlp.experts.3.up_proj".
namespace qshard {

/// Makes one of today's from such an adapter, as PEFT 0.21 does when it loads one: A of gate and up
/// above each other and B in blocks on the diagonal, with twice the rank and the same scale;
/// tensors of experts then have the form of checkpoints. Others are left as they are: false.
/// UserError (naming `file`) where a matrix is missing, or where experts differ in shape, rank or
/// scale.
bool fuse_former_experts(LooseTensors& tensors, PeftConfig& config, const std::string& file);

}  // namespace qshard
