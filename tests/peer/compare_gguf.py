#!/usr/bin/env python3
"""CRC-32 of tensors of a llama GGUF file, dequantized by the gguf package, q and k in Hugging Face's row order.

    python compare_gguf.py MODEL.gguf model.layers.0.self_attn.q_proj.weight ...

Prints the rows of the golden table in tests/unit/formats/test_real_model.cpp. Made with gguf 0.19.0, numpy 2.4.6.
"""
import sys
import zlib

import gguf
import numpy as np

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[module]}.weight"


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    tensors = {t.name: t for t in reader.tensors}
    heads = {"q_proj": reader.get_field("llama.attention.head_count").contents(),
             "k_proj": reader.get_field("llama.attention.head_count_kv").contents()}
    for name in sys.argv[2:]:
        tensor = tensors[gguf_name(name)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for module, count in heads.items():
            if module in name:
                rows, cols = values.shape
                values = values.reshape(count, rows // count // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)
        print(f'    {{"{name}", {zlib.crc32(np.ascontiguousarray(values).tobytes()):#010x}}},')


main()
