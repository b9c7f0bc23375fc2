#!/usr/bin/env python3
"""Rotary frequencies, attention factors and cosines as transformers computes them: rope.json. Run: python make.py"""
import json
import os

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SMALL = dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64, num_hidden_layers=1,
             vocab_size=16, head_dim=32)
CASES = {
    "default": (dict(rope_type="default", rope_theta=10000.0), 64, 2048),
    "linear": (dict(rope_type="linear", rope_theta=500000.0, factor=4.0), 64, 2048),
    "dynamic_within": (dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), 2048, 2048),
    "dynamic_beyond": (dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), 8192, 2048),
    "llama3": (dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=8192), 64, 131072),
    "yarn": (dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=4096), 64, 16384),
    "yarn_mscale": (dict(rope_type="yarn", rope_theta=1000000.0, factor=16.0, mscale=1.0, mscale_all_dim=0.8,
                         beta_fast=16.0, beta_slow=2.0, truncate=False,
                         original_max_position_embeddings=4096), 64, 65536),
    "longrope_short": (dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=4096,
                            short_factor=[1.0 + 0.05 * i for i in range(16)],
                            long_factor=[2.0 + 0.5 * i for i in range(16)]), 64, 131072),
    "longrope_long": (dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=4096,
                           short_factor=[1.0 + 0.05 * i for i in range(16)],
                           long_factor=[2.0 + 0.5 * i for i in range(16)]), 8192, 131072),
    "longrope_partial": (dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=4096,
                              partial_rotary_factor=0.75, short_factor=[1.0 + 0.05 * i for i in range(12)],
                              long_factor=[2.0 + 0.5 * i for i in range(12)]), 8192, 131072),
    "yarn_given_factor": (dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, attention_factor=1.25,
                               original_max_position_embeddings=4096), 64, 131072),
}


def main():
    cases = []
    for name, (rope, length, max_positions) in CASES.items():
        config = LlamaConfig(**SMALL, max_position_embeddings=max_positions, rope_parameters=dict(rope))
        if rope["rope_type"] == "longrope":
            config.rope_parameters["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
        if rope["rope_type"] == "default":
            inverse, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
        else:
            inverse, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=length)
        position = 1000
        angle = torch.tensor(float(position)) * inverse.float()
        cases.append(dict(name=name, rope_parameters=rope, positions=length, max_position_embeddings=max_positions,
                          inverse_frequencies=[float(x) for x in inverse.float()], attention_factor=float(factor),
                          position=position, cos=[float(x) for x in angle.cos() * factor],
                          sin=[float(x) for x in angle.sin() * factor]))
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rope.json")
    with open(path, "w") as file:
        json.dump(dict(about="tests/golden/rope/make.py", head_width=32,
                       versions=dict(torch=torch.__version__, transformers=transformers.__version__), cases=cases),
                  file, indent=0)
        file.write("\n")


main()
